"""A segment of the INTEGER graph as plain lists of tensors and layers, with tiles and work remembered."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.artifact.program import ITEM_BYTES
from hbtool.compiler.segments import Segment
from hbtool.errors import CompileError
from hbtool.ir import graph, meta
from hbtool.numerics.qtype import INT32, IntType, int_type
from hbtool.ops.op import Box, IntegerOp, Tile, integer_op, read_attributes, whole
from hbtool.target.job import Job, channels_of

REMEMBERED = 512
"""Tiles of a layer that are remembered: strategies cut it again and again in the same way."""


@dataclass(eq=False)
class Tensor:
    """A value of the segment.

    Attributes:
        number: position in `Net.tensors`.
        name: value name.
        shape: static shape.
        type: element type (a key of `ITEM_BYTES`).
        data: its array if it is a constant.
        is_input: it arrives from outside the segment.
        is_output: it is needed outside the segment.
        producer: the layer that computes it.
        consumers: the layers that read it, each once, in order.
        channel_axis: the axis that lies innermost in memory, None where the tensor lies as usual.
    """

    number: int
    name: str
    shape: tuple[int, ...]
    type: str
    data: np.ndarray | None = None
    is_input: bool = False
    is_output: bool = False
    producer: Layer | None = None
    consumers: list[Layer] = field(default_factory=list)
    channel_axis: int | None = None

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return ITEM_BYTES[self.type]

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        return graph.elements(self.shape) * self.item_bytes


@dataclass(frozen=True)
class TileWork:
    """What producing a box takes: the box of every operand (None where it is absent), attributes, work."""

    boxes: tuple[Box | None, ...]
    attributes: Mapping[str, Any]
    job: Job


@dataclass(eq=False)
class Layer:
    """One integer operator of the segment.

    Attributes:
        number: position in `Net.layers`.
        name: the float node it was lowered from.
        node: the integer node's own name.
        op: the operator.
        attributes: its typed attributes.
        inputs: operands, None where one is absent.
        outputs: results.
    """

    number: int
    name: str
    node: str
    op: IntegerOp
    attributes: Any
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        self._shapes = tuple(None if t is None else t.shape for t in self.inputs)
        self._types = tuple(INT32 if t is None else _int_type(t.type) for t in self.inputs)
        self._remember()

    def _remember(self) -> None:
        self.tile = lru_cache(maxsize=REMEMBERED)(self._tile)
        self.work = lru_cache(maxsize=REMEMBERED)(self._work)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("tile", "work")}  # what is remembered does not travel

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._remember()

    @property
    def out(self) -> Tensor:
        """The first result."""
        return self.outputs[0]

    @property
    def computed(self) -> list[tuple[int, Tensor]]:
        """(position, tensor) of the operands that are not constants."""
        return [(i, t) for i, t in enumerate(self.inputs) if t is not None and t.data is None]

    @property
    def constants(self) -> list[tuple[int, Tensor]]:
        """(position, tensor) of the constant operands."""
        return [(i, t) for i, t in enumerate(self.inputs) if t is not None and t.data is not None]

    def _tile(self, box: Box) -> Tile | None:
        if len(self.outputs) > 1:
            return None
        if box == whole(self.out.shape):
            return Tile(tuple(None for _ in self.inputs), self.attributes)
        return self.op.tile(self.attributes, self._shapes, self.out.shape, box)

    def _work(self, box: Box) -> TileWork | None:
        """What producing a box of the result takes, None where the operator cannot be cut like that."""
        found = self.tile(box)
        if found is None:
            return None
        boxes = tuple([None if t is None else self.operand_box(found, i) for i, t in enumerate(self.inputs)])
        attributes = self.attribute_values if found.attributes is self.attributes else vars(found.attributes)
        return TileWork(boxes, attributes, self.job(found, sizes(box)))

    def operand_box(self, tile: Tile, position: int) -> Box:
        """The box of operand `position` that a tile reads."""
        tensor = self.inputs[position]
        assert tensor is not None
        box = tile.boxes[position] if position < len(tile.boxes) else None
        return whole(tensor.shape) if box is None else box

    def job(self, tile: Tile, out: tuple[int, ...]) -> Job:
        """The work of producing a tile of shape `out`."""
        shapes = [None if t is None else sizes(self.operand_box(tile, i)) for i, t in enumerate(self.inputs)]
        work = self.op.work(tile.attributes, shapes, out, self._types)
        return Job.of(work, 0 if work.unit == "matrix" else self._channels(shapes, out))

    def _channels(self, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...]) -> int:
        """Channels of the largest tensor read or written; of equal ones the fewest, which leave most lanes empty."""
        moving = [(self.out, out)]
        moving += [(t, s) for s, t in zip(shapes, self.inputs, strict=True) if s and t is not None and t.data is None]
        largest = max(graph.elements(s) for _, s in moving)
        return min(channels_of(s, t.channel_axis) for t, s in moving if graph.elements(s) == largest)

    @cached_property
    def attribute_values(self) -> dict[str, Any]:
        """The attributes as plain values."""
        return dataclasses.asdict(self.attributes)


@dataclass
class Net:
    """A segment: its tensors and its layers in execution order."""

    name: str
    tensors: list[Tensor]
    layers: list[Layer]

    @property
    def inputs(self) -> list[Tensor]:
        """Tensors that arrive from outside."""
        return [t for t in self.tensors if t.is_input]

    @property
    def outputs(self) -> list[Tensor]:
        """Tensors that leave."""
        return [t for t in self.tensors if t.is_output]


def sizes(box: Box) -> tuple[int, ...]:
    """The shape of a box."""
    return tuple([stop - start for start, stop in box])


def _int_type(name: str) -> IntType:
    return int_type(name) if name in ("int8", "int16", "int32") else INT32


def read_net(segment: Segment) -> Net:
    """The tensors and layers of a BPU segment.

    Raises:
        CompileError: an element type has no place in the machine's memory.
    """
    tensors: dict[ir.Value, Tensor] = {}
    leaving = set(segment.outputs)
    entering = set(segment.inputs)

    def tensor(value: ir.Value) -> Tensor:
        found = tensors.get(value)
        if found is None:
            data = None if value in entering else graph.constant(value)
            shape = graph.static_shape(value) if data is None else data.shape
            kind = str(value.dtype.numpy()) if value.dtype is not None and data is None else str(_dtype(data))
            if kind not in ITEM_BYTES:
                raise CompileError(f"element type {kind} has no place on the BPU", where=value.name)
            found = Tensor(
                len(tensors), graph.value_name(value), tuple(shape), kind, data, value in entering, value in leaving
            )
            tensors[value] = found
        return found

    for value in segment.inputs:
        tensor(value)
    layers: list[Layer] = []
    for node in segment.nodes:
        layer = Layer(
            len(layers),
            meta.float_node(node) or graph.node_name(node),
            graph.node_name(node),
            integer_op(node),
            read_attributes(node),
            tuple(None if v is None else tensor(v) for v in node.inputs),
            tuple(tensor(v) for v in node.outputs),
        )
        layers.append(layer)
        for out in layer.outputs:
            out.producer = layer
        for operand in layer.inputs:
            if operand is not None and layer not in operand.consumers[-1:]:
                operand.consumers.append(layer)
    return Net(segment.name, list(tensors.values()), layers)


def _dtype(data: np.ndarray | None) -> Any:
    return "unknown" if data is None else data.dtype


def shape_text(shape: Sequence[int]) -> str:
    """1x3x224x224."""
    return "x".join(map(str, shape))
