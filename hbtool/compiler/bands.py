"""Runs a group of layers band by band: each band of rows goes through all layers before the next one starts.

What lies between the layers exists only as a band in one of two buffers that are used in turn. Rows that the next band
needs again (the halo of a convolution) are copied from one buffer to the other, never computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hbtool.artifact.program import COPY, ON_CHIP
from hbtool.compiler.addresses import Storage
from hbtool.compiler.emit import Operand, Slot
from hbtool.compiler.fuse import ROWS, Group, rows_box
from hbtool.compiler.layers import Layer, Tensor, TileWork, sizes
from hbtool.compiler.residence import Held
from hbtool.compiler.rings import Plan, Ring, box_bytes
from hbtool.compiler.schedule import TileRunner
from hbtool.compiler.tile import Grid, Task, copy_task, layer_task
from hbtool.ops.op import Box, whole
from hbtool.target.job import Job, channels_of

MOST_BANDS = 64


@dataclass(eq=False)
class Rolling:
    """A tensor (or a storage that lives inside the group) of which only a band of rows exists.

    Attributes:
        shape: shape of the whole.
        type: element type.
        pieces: what is computed or loaded into it: tensor -> its box inside the whole.
        loaded: those of the pieces that come from DDR.
        ranges: per band (first row kept, past the last row), None where nothing new comes.
        ring: the two buffers.
        low: first row in the current buffer.
        band: band of the current buffer.
    """

    shape: tuple[int, ...]
    type: str
    item_bytes: int
    pieces: dict[Tensor, Box] = field(default_factory=dict)
    loaded: set[Tensor] = field(default_factory=set)
    ranges: list[tuple[int, int] | None] = field(default_factory=list)
    ring: Ring | None = None
    low: int = 0
    band: int = -1


class BandRunner:
    """Plans and emits groups on a `TileRunner`."""

    def __init__(self, runner: TileRunner) -> None:
        self.runner, self.r = runner, runner.r
        self.addresses = runner.r.addresses

    def run(self, group: Group) -> bool:
        """Emit a group; False (and nothing done) where its buffers do not fit."""
        layers = self.r.net.layers[group.first : group.last + 1]
        tallest = max(layer.out.shape[ROWS] for layer in layers)
        kept = self._keep(group)
        while True:
            bands = group.bands
            while bands <= min(tallest, MOST_BANDS):
                attempt = _Attempt(self, layers, bands)
                if attempt.reserve():
                    attempt.emit()
                    return True
                bands *= 2
            if not kept:
                return False
            while kept:  # their memory may be what is missing
                self.r.drop(kept.pop())

    def _keep(self, group: Group) -> list[Held]:
        """Reserve memory for what should lie on chip as a whole; nothing has been loaded there or written yet."""
        kept = []
        touched = {self.addresses.storages[n] for n in group.keep}
        for number in group.keep:
            held = self.r.held[self.addresses.storages[number]]
            size = held.storage.layout.bytes
            others = [self.r.held[s] for s in touched]
            if held.slot is None and self.r.make_room(size, others, group.first, horizon=group.last - group.first):
                self.r.bring(held)
                kept.append(held)
        return kept


class _Attempt:
    """One group with one number of bands."""

    def __init__(self, owner: BandRunner, layers: Sequence[Layer], bands: int) -> None:
        self.owner, self.r, self.runner = owner, owner.r, owner.runner
        self.layers, self.bands = layers, bands
        self.numbers = {layer.number for layer in layers}
        self.rolling: dict[Tensor | Storage, Rolling] = {}
        self.done: dict[Tensor, list[int]] = {}  # rows finished after each band
        self.constants = Plan(Grid((), True))
        self.slots: dict[Tensor, Slot] = {}

    # ---------------------------------------------------------------------------------------------------- what rolls

    def _produced_here(self, tensor: Tensor) -> bool:
        return tensor.producer is not None and tensor.producer.number in self.numbers

    def _inside(self, storage: Storage) -> bool:
        """Whether a storage is written and read in this group only."""
        return all(
            self._produced_here(t)
            and not t.is_output
            and not t.is_input
            and all(c.number in self.numbers for c in t.consumers)
            for t in storage.tensors
        )

    def _needed_outside(self, tensor: Tensor) -> bool:
        """Whether something outside the group reads a tensor, perhaps as part of what is made of its bytes."""
        if tensor.is_output:
            return True
        moving = self.owner.addresses.moving
        return any(
            c.number not in self.numbers or (c in moving and any(map(self._needed_outside, c.outputs)))
            for c in tensor.consumers
        )

    def _key(self, tensor: Tensor) -> Tensor | Storage | None:
        """What holds the rows of a tensor: None where its storage lies on chip as a whole."""
        place = self.r.place(tensor)
        held = self.r.of(tensor)
        if held.slot is not None:
            return None
        if self._inside(place.storage):
            return place.storage
        if not self._produced_here(tensor):
            return tensor
        if place.starts is None:
            # Other strides over the storage's elements: its rows are not rows of anything else.
            return tensor
        # A slice of, or in place of, something that was computed here before it.
        before = [t for t in self.done if t in self.computed and self.r.place(t).storage is place.storage]
        around = [t for t in before if _number(t) <= _number(tensor) and _within(self._outer(tensor), self._outer(t))]
        return min(around, key=_number, default=tensor)

    def _outer(self, tensor: Tensor) -> Box:
        return self.r.place(tensor).box(tuple((0, n) for n in tensor.shape))

    def _tasks(self, layer: Layer) -> list[Task]:
        """The tasks of a layer (none for a layer of addresses only)."""
        if layer in self.owner.addresses.free_layers:
            return []
        if layer in self.owner.addresses.joined:
            shapes = [None if t is None else t.shape for t in layer.inputs]
            places = layer.op.places(layer.attributes, shapes, layer.out.shape)
            assert places is not None
            tasks = []
            for position in self.owner.addresses.joined[layer]:
                tensor = layer.inputs[position]
                assert tensor is not None
                tasks.append(copy_task(layer, tensor, layer.out, places[position]))
            return tasks
        return [layer_task(layer)]

    # ------------------------------------------------------------------------------------------------------ planning

    def _rows(self) -> None:
        """How far every tensor is finished after each band, from the last layer back to the first."""
        tensors = dict.fromkeys(t for layer in self.layers for t in (layer.out, *(t for _, t in layer.computed)))
        before = dict.fromkeys(tensors, 0)
        self.done = {t: [] for t in tensors}
        self.needs: list[dict[tuple[Layer, int], tuple[int, int]]] = []
        for band in range(self.bands):
            high = dict(before)
            for layer in self.layers:
                out = layer.out
                if out.is_output or any(c.number not in self.numbers for c in out.consumers):
                    high[out] = max(high[out], -(-out.shape[ROWS] * (band + 1) // self.bands))
            needs: dict[tuple[Layer, int], tuple[int, int]] = {}
            for layer in reversed(self.layers):
                start, stop = before[layer.out], high[layer.out]
                if start >= layer.out.shape[ROWS]:
                    continue
                tile = layer.tile(rows_box(layer.out.shape, start, max(stop, start + 1)))
                assert tile is not None, "bandable layers tile along rows"
                for position, tensor in layer.computed:
                    low, top = layer.operand_box(tile, position)[ROWS]
                    needs[layer, position] = (low, top if stop > start else low)
                    if stop > start:
                        high[tensor] = max(high[tensor], top)
            self.needs.append(needs)
            for tensor in tensors:
                self.done[tensor].append(high[tensor])
            before = high

    def reserve(self) -> bool:
        """Find rows, decide what rolls, take the memory; False (and nothing taken) where it does not fit."""
        self._rows()
        self._find_rolling()
        blocks = []
        plan = [(r, self._largest(r)) for r in self.rolling.values()]
        weights = [t for layer in self.layers for _, t in layer.constants]
        need = sum(2 * self.r.memory.rounded(size) for _, size in plan)
        need += sum(self.r.memory.rounded(t.bytes) for t in weights)
        involved = [self.r.of(t) for t in self.done]
        if need > self.r.memory.size or not self._free(need, involved):
            return False
        ok = True
        for rolling, size in plan:
            pair = [self.r.memory.allocate(size, long_lived=False) for _ in range(2)]
            rolling.ring = Ring([b for b in pair if b is not None])
            blocks += rolling.ring.blocks
            ok = ok and None not in pair
        for tensor in dict.fromkeys(weights):
            slot = self.runner.constant_slot(tensor)
            if slot is None:
                ok = False
                break
            self.slots[tensor] = slot
            assert slot.block is not None
            blocks.append(slot.block)
        if not ok:
            for block in blocks:
                self.r.memory.release(block)
            return False
        self.blocks = blocks
        return True

    def _free(self, need: int, involved: Sequence[object]) -> bool:
        """Evict what the group does not touch until `need` bytes are free."""
        kept = set(map(id, involved))
        while self.r.memory.free_bytes < need:
            others = [h for h in self.r.held.values() if h.slot is not None and id(h) not in kept]
            if not others:
                return False
            self.r.evict(max(others, key=lambda h: (h.next_use(self.r.layer), h.storage.number)))
        return True

    def _find_rolling(self) -> None:
        self.rolling = {}
        self.keys: dict[Tensor, Tensor | Storage | None] = {}
        self.computed = {task.out for layer in self.layers for task in self._tasks(layer)}
        for tensor in self.done:
            self.keys[tensor] = self._key(tensor)
        for tensor, key in self.keys.items():
            free = self.owner.addresses.free_layers
            is_read = any(c.number in self.numbers and c not in free for c in tensor.consumers)
            if key is None or not (tensor in self.computed or is_read):
                continue
            rolling = self.rolling.get(key)
            if rolling is None:
                root = key.root if isinstance(key, Storage) else key
                rolling = self.rolling[key] = Rolling(root.shape, root.type, root.item_bytes)
            if tensor in self.computed:
                rolling.pieces[tensor] = self._in_key(tensor, tuple((0, n) for n in tensor.shape), key)
            elif key is tensor:
                rolling.loaded.add(tensor)
                rolling.pieces[tensor] = tuple((0, n) for n in tensor.shape)
        self._find_joined_parts()
        for key, rolling in self.rolling.items():
            rolling.ranges = [self._range(key, rolling, band) for band in range(self.bands)]

    def _find_joined_parts(self) -> None:
        """Parts of a join that are not copied lie in its storage: where only rows of that exist, they are loaded."""
        for layer in self.layers:
            key, copied = self.keys[layer.out], self.owner.addresses.joined.get(layer)
            if not copied or key is None or isinstance(key, Storage):
                continue
            rolling = self.rolling[key]
            for position, tensor in layer.computed:
                if position not in copied:
                    rolling.loaded.add(tensor)
                    rolling.pieces.setdefault(tensor, self._in_key(tensor, whole(tensor.shape), key))

    def _in_key(self, tensor: Tensor, box: Box, key: Tensor | Storage) -> Box:
        """A box of a tensor in the coordinates of what holds its rows."""
        if key is tensor:
            return box
        outer = self.r.place(tensor).box(box)
        if isinstance(key, Storage):
            return outer
        starts = self.r.place(key).starts
        assert starts is not None
        return tuple((low - s, high - s) for (low, high), s in zip(outer, starts, strict=True))

    def _range(self, key: Tensor | Storage, rolling: Rolling, band: int) -> tuple[int, int] | None:
        """Rows the buffer of a band must hold; None where the band brings nothing new."""
        tops = [self.done[t][band] for t in rolling.pieces]
        before = [self.done[t][band - 1] if band else 0 for t in rolling.pieces]
        if tops == before:
            return None
        low = min(before)
        for (layer, position), (need, _) in self.needs[band].items():
            tensor = layer.inputs[position]
            if tensor is not None and self.keys[tensor] is key and layer not in self.owner.addresses.free_layers:
                low = min(low, need)
        return low, max(tops)

    def _largest(self, rolling: Rolling) -> int:
        """Bytes of the largest band."""
        largest = 0
        for rows in rolling.ranges:
            if rows is not None:
                shape = (*rolling.shape[:ROWS], rows[1] - rows[0], *rolling.shape[ROWS + 1 :])
                largest = max(largest, self.runner.target.layout(shape, rolling.item_bytes).bytes)
        return largest

    # ------------------------------------------------------------------------------------------------------ emission

    def emit(self) -> None:
        """The instructions of all bands."""
        tasks = [(layer, self._tasks(layer)) for layer in self.layers]
        for layer in self.layers:
            self._reserve_result(layer)
        for band in range(self.bands):
            core = band % self.runner.cores
            for layer, todo in tasks:
                self.r.layer = layer.number
                for task in todo:
                    self._task(task, band, core)
        for block in self.blocks:
            self.r.memory.release(block)
        for _, todo in tasks:
            for task in todo:
                if self.keys[task.out] is None or self._goes_home(task.out):
                    stored = self.keys[task.out] is not None or self.runner.stored_at_once(task.out)
                    self.r.note_written(task.out, task.box, at_home=stored)

    def _goes_home(self, tensor: Tensor) -> bool:
        """Whether rows of a tensor are stored to the DDR home of its storage."""
        key = self.keys[tensor]
        if key is None or isinstance(key, Storage):
            return False
        return self._needed_outside(tensor) or any(
            self._produced_here(other)
            and self.r.place(other).storage is self.r.place(tensor).storage
            and _meet(self._outer(other), self._outer(tensor))
            for rolling in self.rolling.values()
            for other in rolling.loaded
        )

    def _reserve_result(self, layer: Layer) -> None:
        key = self.keys[layer.out]
        if key is not None and not isinstance(key, Storage):
            self.r.of(layer.out).in_ddr = True

    def _task(self, task: Task, band: int, core: int) -> None:
        start = self.done[task.out][band - 1] if band else 0
        stop = self.done[task.out][band]
        if stop <= start:
            return
        side = task.box[ROWS]
        box = (*task.box[:ROWS], (max(start, side[0]), min(stop, side[1])), *task.box[ROWS + 1 :])
        if box[ROWS][0] >= box[ROWS][1]:
            return
        work = task.tile(box)
        assert work is not None, "bandable layers tile along rows"
        inputs = [None if t is None else self._operand(i, t, work, band, core) for i, t in enumerate(task.inputs)]
        key = self.keys[task.out]
        if key is None:
            slot = self.r.of(task.out).slot
            assert slot is not None
            result = self.r.operand(task.out, box, slot)
        else:
            slot = self._advance(key, band, core)
            inner = self._in_key(task.out, box, key)
            result = Operand(slot.view(inner, task.out.type), slot, inner)
        self.runner.emitter.add(task.engine, core, task.op, work.attributes, inputs, [result], self.r.layer, work.job)
        self.runner.put(task.out, box, result, core, home=self._goes_home(task.out))

    def _operand(self, position: int, tensor: Tensor, work: TileWork, band: int, core: int) -> Operand:
        box = work.boxes[position]
        assert box is not None
        if tensor.data is not None:
            slot = self.slots[tensor]
            loaded = self.constants.loaded.setdefault(tensor.number, set())
            if not any(_within(box, b) for b in loaded):
                self.runner.load_constant(tensor, box, slot, core)
                loaded.add(box)
            return Operand(slot.view(box, tensor.type), slot, box)
        key = self.keys[tensor]
        if key is None:
            held = self.r.of(tensor)
            assert held.slot is not None
            self.r.load_pending(held, self.r.place(tensor).box(box), core)
            return self.r.operand(tensor, box, held.slot)
        slot = self._advance(key, band, core)
        inner = self._in_key(tensor, box, key)
        return Operand(slot.view(inner, tensor.type), slot, inner)

    def _advance(self, key: Tensor | Storage, band: int, core: int) -> Slot:
        """The buffer of this band: what is still needed of the last one copied, and loads issued."""
        rolling = self.rolling[key]
        ring = rolling.ring
        assert ring is not None
        rows = rolling.ranges[band]
        if rolling.band == band or rows is None:
            assert ring.slot is not None
            return ring.slot
        old, old_low = ring.slot, rolling.low
        low, high = rows
        shape = (*rolling.shape[:ROWS], high - low, *rolling.shape[ROWS + 1 :])
        layout = self.runner.target.layout(shape, rolling.item_bytes)
        origin = (*(0 for _ in rolling.shape[:ROWS]), low, *(0 for _ in rolling.shape[ROWS + 1 :]))
        slot = ring.next(Slot(ON_CHIP, 0, layout.strides, origin, shape, layout.padded), ())
        rolling.low, rolling.band = low, band
        copied: set[Box] = set()
        for tensor, piece in reversed(rolling.pieces.items()):
            kept = (max(low, old_low), self.done[tensor][band - 1] if band else 0)
            if old is not None and kept[0] < kept[1]:
                box = (*piece[:ROWS], kept, *piece[ROWS + 1 :])
                if box not in copied:
                    copied.add(box)
                    self._copy(old, slot, box, rolling, core)
            if tensor in rolling.loaded:
                self._load(key, tensor, (kept[1], self.done[tensor][band]), slot, core)
        return slot

    def _copy(self, old: Slot, new: Slot, box: Box, rolling: Rolling, core: int) -> None:
        source = Operand(old.view(box, rolling.type), old, box)
        target = Operand(new.view(box, rolling.type), new, box)
        channels = channels_of(sizes(box))
        job = Job("vector", vector_ops=box_bytes(box, 1), bits=8 * rolling.item_bytes, channels=channels)
        self.runner.emitter.add("vector", core, COPY, {}, [source], [target], self.r.layer, job)

    def _load(self, key: Tensor | Storage, tensor: Tensor, rows: tuple[int, int], slot: Slot, core: int) -> None:
        if rows[0] < rows[1]:
            box = rows_box(tensor.shape, *rows)
            source = self.r.operand(tensor, box, self.r.home(self.r.of(tensor)))
            inner = self._in_key(tensor, box, key)
            self.r.transfer(source, Operand(slot.view(inner, tensor.type), slot, inner), tensor.item_bytes, core)


def _number(tensor: Tensor) -> int:
    return -1 if tensor.producer is None else tensor.producer.number


def _meet(a: Box, b: Box) -> bool:
    return all(low < other[1] and other[0] < high for (low, high), other in zip(a, b, strict=True))


def _within(a: Box, b: Box) -> bool:
    return all(other[0] <= low and high <= other[1] for (low, high), other in zip(a, b, strict=True))
