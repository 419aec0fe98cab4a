"""Runs a task tile by tile: operands from where they are, transfers in front of and behind each tile.

Operands and results lie on chip as a whole where there is room (then a tile is a box of them), else they pass through
two buffers each that are used in turn (double buffering): while one tile computes, the next one's data arrive.
"""

from __future__ import annotations

import itertools

from hbtool.artifact.program import ON_CHIP
from hbtool.compiler.calls import CallLimit
from hbtool.compiler.direct import DirectRunner
from hbtool.compiler.emit import Operand, Slot
from hbtool.compiler.layers import Tensor, TileWork, sizes
from hbtool.compiler.options import CompileOptions
from hbtool.compiler.residence import CHUNK_BYTES, Held, Residence, dense_strides
from hbtool.compiler.rings import Plan, Ring, box_bytes
from hbtool.compiler.strategies import Strategy
from hbtool.compiler.tile import Grid, Task, axes_of, boxes, grids, steps_of
from hbtool.errors import CompileError
from hbtool.ops.op import Box, whole

MOST_CHANNEL_PIECES = 64
BUFFERS = 2


class TileRunner:
    """Plans and emits tasks on the residence's memory."""

    def __init__(self, residence: Residence, options: CompileOptions, calls: CallLimit, strategy: Strategy) -> None:
        self.r, self.options, self.calls, self.strategy = residence, options, calls, strategy
        self.pieces = strategy.pieces
        self.direct = DirectRunner(residence)
        self.target, self.memory, self.emitter = residence.target, residence.memory, residence.emitter
        self.cores = options.core_num
        self._turn = 0
        self._tried: tuple[Task | None, dict[Grid, list[tuple[Box, TileWork]] | None]] = (None, {})

    # ------------------------------------------------------------------------------------------------------- placing

    def run(self, task: Task) -> None:
        """Emit a task; its result is then on chip or in DDR, as there is room."""
        out = self.r.of(task.out)
        held = list({id(h): h for h in [*(self.r.of(t) for _, t in task.computed), out]}.values())
        tiles = self.calls.tiles(task)
        if tiles > 1:  # calls end inside the layer, where nothing may stay on chip
            for h in held:
                self.r.evict(h)
            out.in_ddr = True
        else:
            self._place_operands(task, held, out)
            self._make_useful_room(task, held)
        while True:
            plan = self._plan(task, tiles)
            if plan is not None:
                self._emit(task, plan, tiles > 1)
                break
            if not self._demote(task, held, out):
                if tiles == 1:
                    self.direct.run(task)
                    break
                tiles = 1  # the operator cannot be cut so finely
        self.r.note_written(task.out, task.box, at_home=out.slot is None or self.stored_at_once(task.out))

    def _place_operands(self, task: Task, held: list[Held], out: Held) -> None:
        """Bring operands in and reserve the result where that is worth it."""
        if not self.strategy.resident:
            out.in_ddr = True
            return
        now = self.r.layer
        limit = self.memory.size * 3 // 4
        for operand in held:
            size = operand.storage.layout.bytes
            if operand is out or operand.slot is not None or size > limit:
                continue
            reused = operand.next_use(now) < 1 << 30
            if self.memory.fits(size) or (reused and self.r.make_room(size, held, now, horizon=8)):
                self.r.bring(operand)
        size = out.storage.layout.bytes
        in_place = any(self.r.of(t) is out for _, t in task.computed) and out.next_use(now) < 1 << 30
        if out.slot is None and (in_place or not out.in_ddr):
            room = size <= limit and (self.memory.fits(size) or self.r.make_room(size, held, now, horizon=2))
            if not (room and self.r.bring(out)):
                out.in_ddr = True

    def _make_useful_room(self, task: Task, held: list[Held]) -> None:
        """Put out what the task does not touch where the tiles it would be left with cost more than moving that."""
        while True:
            others = [h for h in self.r.held.values() if h.slot is not None and h not in held]
            if not others:
                return
            streams = [i for i, t in task.computed if self.r.of(t).slot is None] + [i for i, _ in task.constants]
            streams += [] if self.r.of(task.out).slot is not None else [-1]
            free, idle = self.memory.free_bytes, sum(h.storage.layout.bytes for h in others)
            now, then = (self._cheapest(task, streams, 1, 1, room)[:1] for room in (free, free + idle))
            if not then or (now and now[0][0] <= 1.2 * then[0][0]):
                return
            farthest = max(others, key=lambda h: (h.next_use(self.r.layer), h.storage.number))
            moving = 2 * farthest.storage.layout.bytes / self.target.ddr_bytes_per_cycle
            if now and now[0][0] <= then[0][0] + moving:
                return
            self.r.evict(farthest)

    def _demote(self, task: Task, held: list[Held], out: Held) -> bool:
        """Free memory for buffers: storages not involved go first, then the result, then operands."""
        others = [h for h in self.r.held.values() if h.slot is not None and h not in held]
        if others:
            self.r.evict(max(others, key=lambda h: (h.next_use(self.r.layer), h.storage.number)))
            return True
        for h in [out, *sorted(held, key=lambda h: -h.storage.layout.bytes)]:
            if h.slot is not None:
                self.r.evict(h)
                if h is out:
                    h.in_ddr = True
                return True
        return False

    # ------------------------------------------------------------------------------------------------------ planning

    def _plan(self, task: Task, tiles: int) -> Plan | None:
        """A grid of at least `tiles` whose buffers fit into the free memory, with the least traffic; None if none."""
        out = self.r.of(task.out)
        streams = [i for i, t in task.computed if self.r.of(t).slot is None]
        weights = sum(t.bytes for _, t in task.constants)
        resident: dict[int, Slot] = {}
        for i, tensor in task.constants:
            slot = self.constant_slot(tensor) if tiles == 1 and weights <= self.memory.size // 2 else None
            if slot is not None:
                resident[i] = slot
            else:
                streams.append(i)
        if out.slot is None:
            streams.append(-1)
        rows, channels = self._pieces(task, [t for i, t in task.constants if i in resident])
        if tiles > 1 and task.box:
            low, high = task.box[axes_of(len(task.box))[0]]
            rows = max(rows, min(tiles, high - low))
            channels = max(channels, -(-tiles // rows))
        best = self._cheapest(task, streams, rows, channels, self.memory.free_bytes)
        if not best and tiles == 1:  # the operator cannot be cut
            best = self._cheapest(task, streams, 1, 1, self.memory.free_bytes)
        for _, grid in best:
            rings = self._rings(task, grid, streams)
            if rings is not None:
                return Plan(grid, rings, resident, {i: set() for i in resident})
        for slot in resident.values():
            assert slot.block is not None
            self.memory.release(slot.block)
        return None

    def constant_slot(self, tensor: Tensor) -> Slot | None:
        """Reserve on-chip memory for a whole constant; None if there is no room."""
        block = self.memory.allocate(tensor.bytes, long_lived=False)
        if block is None:
            return None
        strides = dense_strides(tensor.shape, tensor.item_bytes)
        origin = (0,) * len(tensor.shape)
        return Slot(ON_CHIP, block.start, strides, origin, tensor.shape, tensor.shape, block, dict(block.last))

    def _pieces(self, task: Task, resident: list[Tensor]) -> tuple[int, int]:
        """Least number of row and channel pieces, so that units and transfers overlap."""
        if self.options.level == 0 or not task.box:
            return 1, 1
        work = task.tile(task.box)
        if work is None:
            return 1, 1
        pieces = min(max(1, self.target.cycles(work.job) // self.pieces.cycles), self.pieces.most * self.cores)
        pieces = max(pieces, self.cores)
        largest = max((t.bytes for t in resident), default=0)
        _, channel = axes_of(len(task.box))
        low, high = task.box[channel]
        channels = min(self.pieces.most, max(1, largest // (2 * CHUNK_BYTES)), max(1, (high - low) // 16))
        return max(1, pieces // channels), channels

    def _cheapest(
        self, task: Task, streams: list[int], rows: int, channels: int, free: int
    ) -> list[tuple[float, Grid]]:
        """(cost, grid) of grids whose buffers fit into `free` bytes, the cheapest first (at most four)."""
        found: list[tuple[float, int, Grid]] = []
        for group in grids(task.box, rows, channels, self.target.matrix_outputs):
            if found and found[-1][2].pieces[axes_of(len(task.box))[1]] >= MOST_CHANNEL_PIECES:
                break
            for grid in group:
                need = self._buffer_bytes(task, grid, streams)
                if need is None or need > free:
                    continue
                for outer in (True, False):
                    candidate = Grid(grid.pieces, outer)
                    found.append((self._cost(task, candidate, streams), candidate.count, candidate))
                break  # finer in rows only costs more
            if not streams or len(found) >= 12:
                break
        found.sort(key=lambda item: (item[0], item[1], not item[2].channels_outer))
        return [(cost, grid) for cost, _, grid in found[:4]]

    def _cost(self, task: Task, grid: Grid, streams: list[int]) -> float:
        """Estimated cycles of a grid: the larger of computing and traffic, and a little of the other."""
        tiles = self._first_tiles(task, grid)
        assert tiles is not None, "the grid was tried"
        compute = grid.count * self.target.cycles(tiles[0][1].job)
        traffic = self._traffic(task, grid, streams) / self.target.ddr_bytes_per_cycle
        weight = self.strategy.latency_weight
        fast = max(compute, traffic) + 0.1 * min(compute, traffic)
        return weight * fast + (1 - weight) * (traffic + 0.001 * compute)

    def _first_tiles(self, task: Task, grid: Grid) -> list[tuple[Box, TileWork]] | None:
        """The first three tiles of a grid, None where the operator cannot be cut like that."""
        if self._tried[0] is not task:
            self._tried = (task, {})
        tried = self._tried[1]
        if grid not in tried:
            tried[grid] = self._tiles(task, grid, 3)
        return tried[grid]

    def _tiles(self, task: Task, grid: Grid, most: int) -> list[tuple[Box, TileWork]] | None:
        result: list[tuple[Box, TileWork]] = []
        steps = steps_of(len(task.box), self.target)
        for box in itertools.islice(boxes(task.box, grid, steps), most):
            work = task.tile(box)
            if work is None:
                return None
            result.append((box, work))
        return result

    def _buffer_bytes(self, task: Task, grid: Grid, streams: list[int]) -> int | None:
        """Bytes of all rings, None where the operator cannot be cut like that."""
        tiles = self._first_tiles(task, grid)
        if tiles is None:
            return None
        return sum(self._ring_bytes(task, tiles, i) * self._depth(grid) for i in streams)

    def _depth(self, grid: Grid) -> int:
        return 1 if grid.count == 1 or self.options.level == 0 else BUFFERS

    def _ring_bytes(self, task: Task, tiles: list[tuple[Box, TileWork]], position: int) -> int:
        size = 0
        for box, work in tiles:
            if position < 0:
                shape, item = sizes(box), task.out.item_bytes
            else:
                tensor, operand = task.inputs[position], work.boxes[position]
                assert tensor is not None and operand is not None
                shape, item = sizes(operand), tensor.item_bytes
                if tensor.data is not None:
                    size = max(size, box_bytes(operand, item))
                    continue
            size = max(size, self.target.layout(shape, item).bytes)
        return self.memory.rounded(size)

    def _traffic(self, task: Task, grid: Grid, streams: list[int]) -> float:
        """Bytes that pass through the rings of operands."""
        total = 0.0
        rank = len(task.box)
        if rank == 0:
            return total
        _, channel = axes_of(rank)
        n_channels = grid.pieces[channel]
        n_others = grid.count // n_channels
        tiles = self._first_tiles(task, Grid(grid.pieces, True)), self._first_tiles(task, Grid(grid.pieces, False))
        for position in streams:
            if position < 0 or tiles[0] is None or tiles[1] is None:
                continue
            along_others = n_others > 1 and len({w.boxes[position] for _, w in tiles[0][:2]}) > 1
            along_channels = n_channels > 1 and len({w.boxes[position] for _, w in tiles[1][:2]}) > 1
            if grid.channels_outer:
                loads = n_channels * n_others if along_others else (n_channels if along_channels else 1)
            else:
                loads = n_channels * n_others if along_channels else (n_others if along_others else 1)
            box = tiles[0][0][1].boxes[position]
            tensor = task.inputs[position]
            assert box is not None and tensor is not None
            total += loads * box_bytes(box, tensor.item_bytes)
        return total

    def _rings(self, task: Task, grid: Grid, streams: list[int]) -> dict[int, Ring] | None:
        tiles = self._tiles(task, grid, grid.count)
        if tiles is None:
            return None
        rings: dict[int, Ring] = {}
        for position in sorted(streams):
            size = self._ring_bytes(task, tiles, position)
            blocks = [self.memory.allocate(size, long_lived=False) for _ in range(self._depth(grid))]
            rings[position] = Ring([b for b in blocks if b is not None])
            if None in blocks:
                self._release(rings)
                return None
        return rings

    def _release(self, rings: dict[int, Ring]) -> None:
        for ring in rings.values():
            for block in ring.blocks:
                self.memory.release(block)

    # ------------------------------------------------------------------------------------------------------ emission

    def _emit(self, task: Task, plan: Plan, calls_may_end: bool) -> None:
        out = self.r.of(task.out)
        for box in boxes(task.box, plan.grid, steps_of(len(task.box), self.target)):
            if calls_may_end and self.calls.full:
                self.calls.end()
                for ring in plan.rings.values():
                    ring.box = None  # what the buffers hold must come again
            work = task.tile(box)
            assert work is not None, "the plan's grid was tried"
            core = self._turn % self.cores
            self._turn += 1
            inputs = [
                None if t is None else self._operand(task, plan, i, t, work, core) for i, t in enumerate(task.inputs)
            ]
            if out.slot is not None:
                result = self.r.operand(task.out, box, out.slot)
            else:
                slot = plan.rings[-1].next(self._tile_slot(task.out, box, plan.rings[-1]), box)
                result = Operand(slot.view(box, task.out.type), slot, box)
            self.emitter.add(task.engine, core, task.op, work.attributes, inputs, [result], self.r.layer, work.job)
            self.put(task.out, box, result, core, home=out.slot is None)
        self._release(plan.rings)
        for slot in plan.resident.values():
            assert slot.block is not None
            self.memory.release(slot.block)

    def put(self, tensor: Tensor, box: Box, result: Operand, core: int, home: bool) -> None:
        """Store a finished box where it has to go: the storage's home, and the region of a graph output."""
        held = self.r.of(tensor)
        region = self.r.output_slots.get(tensor)
        if region is not None and region is not held.home:
            target = Operand(region.view(box, tensor.type), region, box)
            self.r.transfer(result, target, tensor.item_bytes, core)
        needed = home and (held.last_use > self.r.layer or region is None)
        if needed or self.stored_at_once(tensor):
            self.r.transfer(result, self.r.operand(tensor, box, self.r.home(held)), tensor.item_bytes, core)

    def stored_at_once(self, tensor: Tensor) -> bool:
        """Whether `put` brings every box of a tensor to its storage's home although it lies on chip."""
        held = self.r.of(tensor)
        return held.home is not None and (self.r.output_slots.get(tensor) is held.home or self.r.leaves(tensor))

    def _tile_slot(self, tensor: Tensor, box: Box, ring: Ring) -> Slot:
        """A slot of a tile's own size, in the tensor's indices."""
        shape = sizes(box)
        layout = self.target.layout(shape, tensor.item_bytes)
        strides, padded, size = layout.strides, layout.padded, layout.bytes
        if tensor.data is not None:
            strides, padded = dense_strides(shape, tensor.item_bytes), shape
            size = tensor.item_bytes * (strides[0] * shape[0] // tensor.item_bytes if shape else 1)
        block = ring.blocks[0]
        if size > block.stop - block.start:
            raise CompileError("a tile is larger than its buffer", where=tensor.name, hint="This is a bug in hbtool.")
        return Slot(ON_CHIP, 0, strides, tuple(low for low, _ in box), shape, padded)

    def _operand(self, task: Task, plan: Plan, i: int, tensor: Tensor, work: TileWork, core: int) -> Operand:
        box = work.boxes[i]
        assert box is not None
        if i in plan.resident:
            slot = plan.resident[i]
            if box not in plan.loaded[i] and whole(tensor.shape) not in plan.loaded[i]:
                self.load_constant(tensor, box, slot, core)
                plan.loaded[i].add(box)
            return Operand(slot.view(box, tensor.type), slot, box)
        if i in plan.rings:
            ring = plan.rings[i]
            if ring.box != box or ring.slot is None:
                slot = ring.next(self._tile_slot(tensor, box, ring), box)
                if tensor.data is not None:
                    self.load_constant(tensor, box, slot, core)
                else:
                    source = self.r.operand(tensor, box, self.r.home(self.r.of(tensor)))
                    target = Operand(slot.view(box, tensor.type), slot, box)
                    self.r.transfer(source, target, tensor.item_bytes, core)
            assert ring.slot is not None
            return Operand(ring.slot.view(box, tensor.type), ring.slot, box)
        held = self.r.of(tensor)
        assert held.slot is not None, "operands lie on chip or pass through a ring"
        self.r.load_pending(held, self.r.place(tensor).box(box), core)
        return self.r.operand(tensor, box, held.slot)

    def load_constant(self, tensor: Tensor, box: Box, slot: Slot, core: int) -> None:
        """Load a box of a constant."""
        home = self.r.constant(tensor)
        source = Operand(home.view(box, tensor.type), home, box)
        self.r.transfer(source, Operand(slot.view(box, tensor.type), slot, box), tensor.item_bytes, core)
