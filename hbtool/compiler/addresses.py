"""Gives every tensor a place inside a storage, so that operators that only move elements need no instruction.

A storage is one padded feature map in memory. A tensor is a storage of its own, a box of one (a slice; an operand of a
join that was computed straight into the join), the same elements under other strides (reshape, transpose), or takes
over the bytes of an operand that nobody else reads (in-place).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import as_strided

from hbtool.compiler.layers import Layer, Net, Tensor
from hbtool.numerics.int_math import NumpyMath
from hbtool.ops.op import Box, whole
from hbtool.target.target import Layout, Target, axis_order

LONGEST_WAIT = 12
"""Layers a part of a join may lie in the join's storage before the next part is computed (the whole is held)."""


@dataclass(eq=False)
class Storage:
    """One padded tensor in memory.

    Attributes:
        number: position among the storages.
        root: the tensor that has the storage's shape.
        layout: strides and size.
        tensors: every tensor that lives in it.
    """

    number: int
    root: Tensor
    layout: Layout
    tensors: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a storage.

    Attributes:
        storage: the storage.
        offset: bytes from the storage's first byte.
        strides: bytes per step, per axis of the tensor.
        starts: first index along each axis of the storage, None where the axes do not correspond.
    """

    storage: Storage
    offset: int
    strides: tuple[int, ...]
    starts: tuple[int, ...] | None

    def box(self, box: Box) -> Box:
        """A box of the tensor as a box of the storage (all of it where axes do not correspond)."""
        if self.starts is None:
            return whole(self.storage.layout.shape)
        return tuple((s + low, s + high) for s, (low, high) in zip(self.starts, box, strict=True))


@dataclass(frozen=True)
class Addresses:
    """The result: a place per tensor, and the layers that need no instruction of their own.

    Attributes:
        places: tensor -> place (constants have none).
        storages: all storages.
        free_layers: layers whose result is addresses only.
        joined: for layers that join operands: positions of the operands that still have to be copied.
    """

    places: Mapping[Tensor, Place]
    storages: list[Storage]
    free_layers: frozenset[Layer]
    joined: Mapping[Layer, tuple[int, ...]]

    @cached_property
    def moving(self) -> frozenset[Layer]:
        """Layers whose result holds the bytes of (some of) their operands."""
        return self.free_layers | self.joined.keys()


def place_tensors(net: Net, target: Target, share: bool) -> Addresses:
    """Places of all tensors of a segment.

    Args:
        net: the segment.
        target: its alignment decides the layouts.
        share: False gives every tensor a storage of its own (every move is then a copy).
    """
    return _Placer(net, target).run(share)


class _Placer:
    def __init__(self, net: Net, target: Target) -> None:
        self.net, self.target = net, target
        self.base: dict[Tensor, tuple[Tensor, tuple[int, ...]]] = {}
        self.inside: dict[Tensor, tuple[Tensor, tuple[int, ...]]] = {}
        self.taken_over: set[Tensor] = set()
        self.places: dict[Tensor, Place] = {}
        self.storages: list[Storage] = []
        self.free: set[Layer] = set()
        self.joined: dict[Layer, tuple[int, ...]] = {}

    def run(self, share: bool) -> Addresses:
        tensors = [t for t in self.net.tensors if t.data is None]
        self.base = {t: (t, (0,) * len(t.shape)) for t in tensors}
        if share:
            for layer in self.net.layers:
                self._find_slice(layer)
            for layer in self.net.layers:
                self._find_in_place(layer)
            for layer in self.net.layers:
                self._find_join(layer)
        for tensor in self.net.inputs:
            self._place(tensor)
        for layer in self.net.layers:
            for out in layer.outputs:
                if not (share and self._place_as_view(layer, out)):
                    self._place(out)
        for tensor, place in self.places.items():
            tensor.channel_axis = _innermost(tensor, place.strides)
        return Addresses(self.places, self.storages, frozenset(self.free), self.joined)

    # ---------------------------------------------------------------------------------------------- who shares bytes

    @staticmethod
    def _only_operand(layer: Layer) -> Tensor | None:
        """The computed operand of a layer that may be addresses only."""
        computed = layer.computed
        if not layer.op.moves or layer.constants or len(computed) != 1 or len(layer.outputs) != 1:
            return None
        return computed[0][1]

    def _find_slice(self, layer: Layer) -> None:
        source = self._only_operand(layer)
        if source is None or len(source.shape) != len(layer.out.shape):
            return
        x = np.empty(source.shape, source.type)
        y = layer.op.kernel(NumpyMath(), layer.attributes, x)
        if not isinstance(y, np.ndarray) or not np.may_share_memory(x, y) or y.strides != x.strides:
            return
        if any(part > all_of for part, all_of in zip(y.shape, x.shape, strict=True)):
            return  # axes of one element changed places with others: equal strides, and yet no box of the operand
        offset = y.__array_interface__["data"][0] - x.__array_interface__["data"][0]
        starts = np.unravel_index(offset // source.item_bytes, source.shape) if y.size else (0,) * y.ndim
        root, before = self.base[source]
        self.base[layer.out] = (root, tuple(int(a + b) for a, b in zip(before, starts, strict=True)))
        self.free.add(layer)

    def _find_in_place(self, layer: Layer) -> None:
        if layer in self.free or len(layer.outputs) != 1 or layer.op.moves:
            return
        out = layer.out
        for position, source in layer.computed:
            root, starts = self.base[source]
            if (
                source.shape != out.shape
                or source.item_bytes != out.item_bytes
                or source.consumers != [layer]
                or sum(t is source for t in layer.inputs) != 1
                or source.is_input
                or source.is_output
                or root.shape != source.shape
                or any(starts)
                or (source.producer is not None and source.producer.op.moves)
                or not _elementwise(layer, position)
            ):
                continue
            self.base[out] = (root, starts)
            self.taken_over.add(root)
            return

    def _find_join(self, layer: Layer) -> None:
        out = layer.out
        boxes = layer.op.places(layer.attributes, [None if t is None else t.shape for t in layer.inputs], out.shape)
        if boxes is None or not layer.op.moves or self.base[out][0] is not out:
            return
        parts: dict[Tensor, list[tuple[int, tuple[int, ...]]]] = {}
        for position, source in layer.computed:
            root, starts = self._root(source)
            at = tuple(b[0] - s for b, s in zip(boxes[position], starts, strict=True)) if _same_rank(root, out) else ()
            parts.setdefault(root, []).append((position, at))
        placed: set[int] = set()
        for root, wanted in parts.items():
            first = wanted[0][1]
            boxes_of = {boxes[p] for p, at in wanted if at == first}
            covered = sum(_volume(b) for b in boxes_of)
            if self._may_lie_inside(root, layer, first) and covered == _volume(whole(root.shape)):
                self.inside[root] = (out, first)
                placed |= {p for p, at in wanted if at == first}
        self.joined[layer] = tuple(i for i, t in enumerate(layer.inputs) if t is not None and i not in placed)
        if not self.joined[layer]:
            self.free.add(layer)

    def _root(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The tensor whose bytes a tensor lies in, and where: through slices and results computed in place."""
        root, starts = self.base[tensor]
        while self.base[root][0] is not root:
            root, before = self.base[root]
            starts = tuple(a + b for a, b in zip(starts, before, strict=True))
        return root, starts

    def _may_lie_inside(self, root: Tensor, layer: Layer, at: tuple[int, ...]) -> bool:
        out = layer.out
        if not at or root.is_input or root in self.inside or root is out or root.producer is None:
            return False
        if root.item_bytes != out.item_bytes or layer.number - root.producer.number > LONGEST_WAIT:
            return False
        # A join that only views another tensor has no bytes of its own to lie in.
        return all(s >= 0 and s + n <= size for s, n, size in zip(at, root.shape, out.shape, strict=True))

    # ---------------------------------------------------------------------------------------------- where they lie

    def _place(self, tensor: Tensor) -> Place:
        if tensor in self.places:
            return self.places[tensor]
        root, starts = self.base[tensor]
        if root is not tensor:
            around = self.places.get(root) or self._place(root)
        elif tensor in self.inside:
            around, starts = self._place(self.inside[tensor][0]), self.inside[tensor][1]
        else:
            layout = self.target.layout(tensor.shape, tensor.item_bytes, self._order(tensor))
            storage = Storage(len(self.storages), tensor, layout)
            self.storages.append(storage)
            around = Place(storage, 0, storage.layout.strides, (0,) * len(tensor.shape))
        offset = around.offset + sum(s * step for s, step in zip(starts, around.strides, strict=True))
        deeper = None
        if around.starts is not None:
            deeper = tuple(a + b for a, b in zip(around.starts, starts, strict=True))
        place = Place(around.storage, offset, around.strides, deeper)
        self.places[tensor] = place
        around.storage.tensors.append(tensor)
        return place

    def _order(self, tensor: Tensor) -> tuple[int, ...] | None:
        """The order of axes in which the operands of an elementwise operator or a reduction lie: it turns nothing."""
        layer = tensor.producer
        if layer is None or tensor.is_output or layer.op.moves:
            return None
        full = layer.tile(whole(tensor.shape))
        if full is None or layer.job(full, tensor.shape).unit != "vector":
            return None
        orders = {_axes_by_stride(self.places[t].strides) for _, t in layer.computed if _follows(t, tensor)}
        return orders.pop() if len(orders) == 1 else None

    def _place_as_view(self, layer: Layer, out: Tensor) -> bool:
        """Place the result of a reshape or transpose on its operand's bytes where strides can express it."""
        source = self._only_operand(layer)
        if source is None or layer in self.free or out in self.inside or out in self.taken_over:
            return False
        if self.base[out][0] is not out or out in self.places or out.item_bytes != source.item_bytes:
            return False
        place = self.places[source]
        memory = np.empty(place.storage.layout.bytes, np.uint8)
        x = as_strided(memory[place.offset :].view(np.dtype(source.type)), source.shape, place.strides)
        y = layer.op.kernel(NumpyMath(), layer.attributes, x)
        if not isinstance(y, np.ndarray) or y.size == 0 or not np.may_share_memory(memory, y):
            return False
        offset = y.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
        self.places[out] = Place(place.storage, offset, y.strides, None)
        place.storage.tensors.append(out)
        self.free.add(layer)
        return True


def _follows(operand: Tensor, result: Tensor) -> bool:
    """Whether an operand is as large as the result, or larger along axes that a reduction leaves with one element."""
    if len(operand.shape) != len(result.shape):
        return False
    return all(a == b or b == 1 for a, b in zip(operand.shape, result.shape, strict=True))


def _axes_by_stride(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Axes from the outermost to the innermost; of axes with equal strides (one has one element) in the usual order."""
    usual = axis_order(len(strides))
    return tuple(sorted(usual, key=lambda axis: -strides[axis]))


def _innermost(tensor: Tensor, strides: tuple[int, ...]) -> int | None:
    axes = [axis for axis, size in enumerate(tensor.shape) if size > 1]
    if not axes:
        return None
    found = min(axes, key=lambda axis: abs(strides[axis]))
    usual = axis_order(len(strides))[-1]
    return None if strides[found] == strides[usual] else found


def _same_rank(a: Tensor, b: Tensor) -> bool:
    return len(a.shape) == len(b.shape)


def _volume(box: Box) -> int:
    return int(np.prod([stop - start for start, stop in box], dtype=np.int64))


def _elementwise(layer: Layer, position: int) -> bool:
    """Whether operand `position` is read exactly where the result is written (probed on boxes of every axis)."""
    shape = layer.out.shape
    for box in _probes(shape):
        tile = layer.tile(box)
        if tile is None or layer.operand_box(tile, position) != box:
            return False
    return True


def _probes(shape: tuple[int, ...]) -> Iterable[Box]:
    full = whole(shape)
    yield full
    for axis, size in enumerate(shape):
        if size > 1:
            yield (*full[:axis], (size // 2, size), *full[axis + 1 :])
            yield (*full[:axis], (0, 1), *full[axis + 1 :])
