"""Where every storage is right now: on chip, in DDR, or both; brings it in and puts it out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hbtool.artifact.program import COPY, ON_CHIP, Region, View
from hbtool.compiler.addresses import Addresses, Place, Storage
from hbtool.compiler.allocate import Memory
from hbtool.compiler.emit import Emitter, Operand, Slot
from hbtool.compiler.layers import Net, Tensor, sizes
from hbtool.compiler.options import CompileOptions
from hbtool.compiler.tile import axes_of
from hbtool.ops.op import Box, whole
from hbtool.target.job import Job
from hbtool.target.target import Target

CHUNK_BYTES = 32 * 1024
"""Loads are cut into pieces of about this size, so that computing starts before all of a tensor has arrived."""


@dataclass(eq=False)
class Held:
    """The state of one storage.

    Attributes:
        storage: the storage.
        uses: numbers of the layers that touch it, ascending.
        slot: its place on chip.
        home: its place in DDR.
        pieces: boxes of it that were produced, with the tensor that was produced there.
        saved: those that `home` holds.
        pending: boxes that are at home and not yet loaded into `slot`.
        in_ddr: results go to DDR tile by tile, it never lies on chip as a whole.
    """

    storage: Storage
    uses: list[int] = field(default_factory=list)
    slot: Slot | None = None
    home: Slot | None = None
    pieces: dict[Box, Tensor] = field(default_factory=dict)
    saved: set[Box] = field(default_factory=set)
    pending: list[tuple[Box, Tensor]] = field(default_factory=list)
    in_ddr: bool = False

    @property
    def last_use(self) -> int:
        """Number of the last layer that touches it."""
        return self.uses[-1] if self.uses else -1

    def next_use(self, now: int) -> int:
        """Number of the first layer after `now` that touches it."""
        return next((n for n in self.uses if n > now), 1 << 30)


class Residence:
    """All storages of a segment, the on-chip memory and the DDR regions."""

    def __init__(
        self,
        net: Net,
        addresses: Addresses,
        target: Target,
        memory: Memory,
        emitter: Emitter,
        options: CompileOptions,
    ) -> None:
        self.net, self.addresses, self.target = net, addresses, target
        self.memory, self.emitter, self.options = memory, emitter, options
        self.regions: list[Region] = []
        self.held = {s: Held(s) for s in addresses.storages}
        self.output_slots: dict[Tensor, Slot] = {}
        self.weights = bytearray()
        self._constants: dict[Tensor, Slot] = {}
        self._leaving: set[Held] = set()
        self.layer = 0
        for layer in net.layers:
            for tensor in (*layer.outputs, *(t for _, t in layer.computed)):
                uses = self.of(tensor).uses
                if layer.number not in uses[-1:]:
                    uses.append(layer.number)
        for tensor in net.inputs:
            held = self.of(tensor)
            held.home = self._region(tensor, "input", dense=options.input_no_padding)
            box = whole(tensor.shape)
            held.pieces[box], held.saved = tensor, {box}
        for tensor in net.outputs:
            if tensor.is_input:
                continue
            self.output_slots[tensor] = self._output(tensor)
        self.regions.append(Region("weights", "weights", 0))
        self._weights_space = len(self.regions)

    # ------------------------------------------------------------------------------------------------------ regions

    def _region(self, tensor: Tensor, kind: str, *, dense: bool) -> Slot:
        target = replace(self.target, layouts=((1, 1),)) if dense else self.target
        layout = target.layout(tensor.shape, tensor.item_bytes)
        origin = (0,) * len(tensor.shape)
        slot = Slot(len(self.regions) + 1, 0, layout.strides, origin, tensor.shape, layout.padded)
        view = slot.view(whole(tensor.shape), tensor.type)
        self.regions.append(Region(tensor.name, kind, layout.bytes, view))  # type: ignore[arg-type]
        return slot

    def _output(self, tensor: Tensor) -> Slot:
        """The region of a result: the storage's own home where the result is all of it, under whatever strides."""
        held, place = self.of(tensor), self.place(tensor)
        dense, all_of_it = self.options.output_no_padding, math.prod(held.storage.layout.shape)
        if dense or held.home is not None or math.prod(tensor.shape) != all_of_it:
            return self._region(tensor, "output", dense=dense)
        layout = held.storage.layout
        origin = (0,) * len(layout.shape)
        space = len(self.regions) + 1
        held.home = Slot(space, 0, layout.strides, origin, layout.shape, layout.padded)
        view = View(space, place.offset, tensor.type, tensor.shape, place.strides)
        self.regions.append(Region(tensor.name, "output", layout.bytes, view))
        self._leaving.add(held)
        return held.home

    def leaves(self, tensor: Tensor) -> bool:
        """Whether what is computed into `tensor` is at once a result of the segment (perhaps under other strides)."""
        final = all(c in self.addresses.free_layers for c in tensor.consumers)
        return final and self.of(tensor) in self._leaving

    def home(self, held: Held) -> Slot:
        """The DDR region of a storage, made when it is first needed."""
        if held.home is None:
            layout = held.storage.layout
            origin = (0,) * len(layout.shape)
            held.home = Slot(len(self.regions) + 1, 0, layout.strides, origin, layout.shape, layout.padded)
            self.regions.append(Region(held.storage.root.name, "spill", layout.bytes))
        return held.home

    def constant(self, tensor: Tensor) -> Slot:
        """Where a constant lies in the weights region."""
        if tensor not in self._constants:
            assert tensor.data is not None
            start = -(-len(self.weights) // self.target.address_bytes) * self.target.address_bytes
            self.weights.extend(bytes(start - len(self.weights)))
            self.weights.extend(np.ascontiguousarray(tensor.data).tobytes())
            strides = dense_strides(tensor.shape, tensor.item_bytes)
            origin = (0,) * len(tensor.shape)
            self._constants[tensor] = Slot(self._weights_space, start, strides, origin, tensor.shape, tensor.shape)
        return self._constants[tensor]

    def finished_regions(self) -> tuple[Region, ...]:
        """All regions, the weights region with its final size."""
        regions = list(self.regions)
        regions[self._weights_space - 1] = Region("weights", "weights", len(self.weights))
        return tuple(regions)

    # ----------------------------------------------------------------------------------------------------- operands

    def of(self, tensor: Tensor) -> Held:
        """The state of the storage a tensor lies in."""
        return self.held[self.place(tensor).storage]

    def place(self, tensor: Tensor) -> Place:
        """Where a tensor lies."""
        return self.addresses.places[tensor]

    def operand(self, tensor: Tensor, box: Box, slot: Slot) -> Operand:
        """A box of a tensor in a slot that holds its storage (or, where axes correspond, part of it)."""
        place = self.place(tensor)
        outer = place.box(box)
        if place.starts is not None:
            return Operand(slot.view(outer, tensor.type), slot, outer)
        offset = slot.base + place.offset + sum(b[0] * step for b, step in zip(box, place.strides, strict=True))
        view = slot.view(outer, tensor.type)
        return Operand(type(view)(slot.space, offset, tensor.type, sizes(box), place.strides), slot, outer)

    # ----------------------------------------------------------------------------------------------------- movement

    def on_chip_slot(self, held: Held) -> Slot | None:
        """Reserve on-chip memory for a whole storage; None if there is no room."""
        block = self.memory.allocate(held.storage.layout.bytes, long_lived=True)
        if block is None:
            return None
        layout = held.storage.layout
        origin = (0,) * len(layout.shape)
        held.slot = Slot(
            ON_CHIP, block.start, layout.strides, origin, layout.shape, layout.padded, block, dict(block.last)
        )
        return held.slot

    def bring(self, held: Held) -> bool:
        """Reserve memory for a storage that is in DDR; its loads are issued when somebody reads it."""
        if held.slot is not None:
            return True
        if self.on_chip_slot(held) is None:
            return False
        held.pending = [(part, t) for box, t in held.pieces.items() for part in self._chunks(box, t.item_bytes)]
        return True

    def _chunks(self, box: Box, item_bytes: int) -> Iterable[Box]:
        row, _ = axes_of(len(box))
        count = item_bytes
        for low, high in box:
            count *= high - low
        if not box:
            return [box]
        low, high = box[row]
        pieces = min(max(1, count // CHUNK_BYTES), 16, max(high - low, 1))
        edges = [low + (high - low) * i // pieces for i in range(pieces + 1)]
        return [(*box[:row], (a, b), *box[row + 1 :]) for a, b in itertools.pairwise(edges)]

    def load_pending(self, held: Held, outer: Box, core: int) -> None:
        """Issue the loads of everything `outer` (a box of the storage) touches."""
        if not held.pending or held.slot is None:
            return
        rest = []
        for box, tensor in held.pending:
            if all(low < b[1] and b[0] < high for (low, high), b in zip(outer, box, strict=True)):
                self._move(self.home(held), held.slot, box, tensor, core)
            else:
                rest.append((box, tensor))
        held.pending = rest

    def _move(self, source: Slot, target: Slot, box: Box, tensor: Tensor, core: int) -> None:
        """Transfer a box of a storage between chip and DDR."""
        one = Operand(source.view(box, tensor.type), source, box)
        other = Operand(target.view(box, tensor.type), target, box)
        self.transfer(one, other, tensor.item_bytes, core)

    def transfer(self, source: Operand, target: Operand, item_bytes: int, core: int) -> None:
        """One DMA instruction."""
        reads, writes = source.slot.space != ON_CHIP, target.slot.space != ON_CHIP
        far = source if reads else target
        moved = min(far.slot.moved_bytes(far.box, item_bytes), _padded_volume(far))
        job = Job("dma", loaded_bytes=moved if reads else 0, stored_bytes=moved if writes else 0)
        self.emitter.add("store" if writes else "load", core, COPY, {}, [source], [target], self.layer, job)

    def save(self, held: Held) -> None:
        """Store everything of a storage that only lies on chip."""
        if held.slot is None:
            return
        home = self.home(held)
        for box, tensor in held.pieces.items():
            if box not in held.saved:
                for part in self._chunks(box, tensor.item_bytes):
                    self._move(held.slot, home, part, tensor, 0)
                held.saved.add(box)

    def drop(self, held: Held) -> None:
        """Give the on-chip memory of a storage back."""
        if held.slot is not None and held.slot.block is not None:
            self.memory.release(held.slot.block)
            held.slot, held.pending = None, []

    def evict(self, held: Held) -> None:
        """Store what is not in DDR yet, then give the memory back."""
        self.save(held)
        self.drop(held)

    def make_room(self, size: int, keep: Iterable[Held], now: int, horizon: int = 0) -> bool:
        """Evict storages, the one needed last first, until `size` bytes fit; those needed within `horizon` stay."""
        kept = set(map(id, keep))
        while not self.memory.fits(size):
            candidates = [
                h
                for h in self.held.values()
                if h.slot is not None and id(h) not in kept and h.next_use(now) > now + horizon
            ]
            if not candidates:
                return False
            self.evict(max(candidates, key=lambda h: (h.next_use(now), h.storage.number)))
        return True

    def note_written(self, tensor: Tensor, box: Box, at_home: bool) -> None:
        """Record that a box of a tensor was produced (all of it by the time anybody asks)."""
        held = self.of(tensor)
        outer = self.place(tensor).box(box)
        held.pieces[outer] = tensor
        if at_home:
            held.saved.add(outer)
        else:
            held.saved.discard(outer)


def dense_strides(shape: Sequence[int], item_bytes: int) -> tuple[int, ...]:
    """Row-major strides without padding."""
    strides, step = [0] * len(shape), item_bytes
    for axis in reversed(range(len(shape))):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def _padded_volume(operand: Operand) -> int:
    """Bytes of a view with its innermost run in whole bursts of 16 bytes."""
    view = operand.view
    count = view.item_bytes
    inner = max(((n, s) for n, s in zip(view.shape, view.strides, strict=True) if s == view.item_bytes), default=(1, 0))
    for n in view.shape:
        count *= n
    run = inner[0] * view.item_bytes
    return count // max(run, 1) * (-(-run // 16) * 16) if run else count
