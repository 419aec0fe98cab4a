"""Selections by constant indices: Gather, GatherElements, Tile, Expand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import IntType, QParams
from hbtool.ops.boundary import requantized
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Sample, Tile, constraint
from hbtool.ops.reshape import Reshape, ReshapeAttributes


@dataclass(frozen=True)
class TakeAttributes:
    """The axis that is selected from."""

    axis: int = 0


class Take(IntegerOp):
    """y = x[..., index, ...] along an axis; index int64 [K], not negative; the scale does not change."""

    name = "Take"
    Attributes = TakeAttributes
    parameters = (1,)
    moves = True

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.take(x[0], x[1], a.axis)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand, index = x[0], x[1]
        assert operand is not None and index is not None
        size, positions = operand.shape[a.axis], index.constant()
        repeats = len(positions) // size
        if repeats and np.array_equal(positions, np.tile(np.arange(size), repeats)):
            counts = [repeats if i == a.axis else 1 for i in range(len(operand.shape))]
            return [b.op("Tile", b.value(operand), b.const(counts, np.int64))]
        return [b.op("Gather", b.value(operand), b.const(positions), axis=a.axis)]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        x = shapes[0]
        assert x is not None
        # Which elements an index names is not in the shapes: all of them along the axis.
        return Tile(((*box[: a.axis], (0, x[a.axis]), *box[a.axis + 1 :]), (box[a.axis],)), a)


def emit_take(
    b: IntegerBuilder,
    x: ir.Value,
    index: np.ndarray,
    axis: int,
    q: QParams,
    represents: ir.Value | None = None,
) -> ir.Value:
    """x[..., index, ...] along an axis with index [K]; negative indices count from the end."""
    shape = graph.static_shape(x)
    positions = np.where(index < 0, index + shape[axis], index).astype(np.int64)
    out = (*shape[:axis], len(positions), *shape[axis + 1 :])
    return b.emit(Take, [x, b.const(positions, "index")], q, out, TakeAttributes(axis), represents=represents)


def emit_reshape(b: IntegerBuilder, x: ir.Value, shape: Sequence[int], q: QParams, represents: ir.Value) -> None:
    """The last step of a selection: the result's own shape."""
    sizes = tuple(shape)
    b.emit(Reshape, [x], q, sizes, ReshapeAttributes(sizes), represents=represents)


class GatherFloat(Limited):
    """ONNX Gather and GatherElements of a feature map with constant indices."""

    op_types = ("Gather", "GatherElements")
    families = ("bayes", "bayes-e", "nash")
    passive = True
    rule_text = "a selection of integers, scale unchanged"

    @constraint()
    def constant_indices(self, node: ir.Node, limit: Any) -> bool | str:
        """constant indices"""
        return graph.constant(node.inputs[1]) is not None or "they are computed"

    @constraint(bayes=4, bayes_e=4)
    def gather_rank(self, node: ir.Node, limit: int) -> bool | str:
        """for Gather: data, indices and result of rank at most {limit}"""
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        rank = max(len(graph.static_shape(v)) for v in values)
        return node.op_type != "Gather" or rank <= limit or f"one is {rank}"

    @constraint("bayes", "bayes-e")
    def indices_inside(self, node: ir.Node, limit: Any) -> bool | str:
        """for GatherElements: indices no larger than the data on the other axes"""
        if node.op_type != "GatherElements":
            return True
        data, index = (graph.static_shape(v) for v in node.inputs[:2] if v is not None)
        axis = graph.attribute(node, "axis", 0) % len(data)
        return all(i <= d for k, (i, d) in enumerate(zip(index, data, strict=True)) if k != axis) or "they are larger"

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        index = graph.constant(node.inputs[1])
        assert x is not None and index is not None
        result = b.result(node)
        source = requantized(b, b.x(x), result.q)
        shape, out = graph.static_shape(x), graph.static_shape(node.outputs[0])
        axis = graph.attribute(node, "axis", 0) % len(shape)
        if node.op_type == "GatherElements":
            flat = _flat_indices(np.where(index < 0, index + shape[axis], index), shape, axis)
            count = graph.elements(shape)
            line = b.emit(Reshape, [source], result.q, (count,), ReshapeAttributes((count,)))
            emit_reshape(b, emit_take(b, line, flat.reshape(-1), 0, result.q), out, result.q, result.value)
            return
        taken = emit_take(b, source, index.reshape(-1), axis, result.q, result.value if index.ndim == 1 else None)
        if index.ndim != 1:
            emit_reshape(b, taken, out, result.q, result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(29)
        x = rng.standard_normal((2, 5, 4)).astype(np.float32)
        yield Sample("list", "Gather", (x,), {1: np.array([3, 0, -1, 3])}, {"axis": 1})
        yield Sample("one element", "Gather", (x,), {1: np.array(2)}, {"axis": 1})
        yield Sample("table of indices", "Gather", (x,), {1: np.array([[0, 1], [4, -2]])}, {"axis": -2})
        index = rng.integers(-4, 4, (2, 3, 4))
        yield Sample("elements", "GatherElements", (x,), {1: index}, {"axis": 1})
        yield Sample("elements of the last axis", "GatherElements", (x,), {1: index % 3}, {"axis": -1})


def _flat_indices(index: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Positions in the flat tensor of the elements that GatherElements names."""
    places = np.indices(index.shape)
    places[axis] = index
    return np.asarray(np.ravel_multi_index(tuple(places), shape))


class RepeatFloat(Limited):
    """ONNX Tile and Expand with constant sizes."""

    op_types = ("Tile", "Expand")
    families = ("bayes", "bayes-e", "nash")
    passive = True
    rule_text = "copies of integers, scale unchanged"

    @constraint()
    def constant_sizes(self, node: ir.Node, limit: Any) -> bool | str:
        """constant sizes"""
        return graph.constant(node.inputs[1]) is not None or "they are computed"

    @constraint("bayes", "bayes-e")
    def one_axis(self, node: ir.Node, limit: Any) -> bool | str:
        """input and output that differ in one dimension at most"""
        x = node.inputs[0]
        assert x is not None
        out = graph.static_shape(node.outputs[0])
        source = (1,) * (len(out) - len(graph.static_shape(x))) + graph.static_shape(x)
        count = sum(a != b for a, b in zip(source, out, strict=True))
        return count <= 1 or f"{count} differ"

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        assert x is not None
        result, out = b.result(node), graph.static_shape(node.outputs[0])
        y = requantized(b, b.x(x), result.q)
        shape = (1,) * (len(out) - len(graph.static_shape(x))) + graph.static_shape(x)
        if shape != graph.static_shape(x):
            y = b.emit(Reshape, [y], result.q, shape, ReshapeAttributes(shape))
        for axis, (size, wanted) in enumerate(zip(shape, out, strict=True)):
            if size != wanted:
                y = emit_take(b, y, np.tile(np.arange(size), wanted // size), axis, result.q)
        emit_reshape(b, y, out, result.q, result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(30).standard_normal((1, 3, 2, 4)).astype(np.float32)
        yield Sample("tile channels", "Tile", (x,), {1: np.array([1, 2, 1, 1])})
        yield Sample("tile everything", "Tile", (x,), {1: np.array([2, 1, 3, 2])})
        yield Sample("expand", "Expand", (x[:, :, :1].copy(),), {1: np.array([1, 3, 5, 4])})
        yield Sample("expand to a higher rank", "Expand", (x,), {1: np.array([2, 1, 3, 1, 4])})
        yield Sample("nothing to do", "Expand", (x,), {1: np.array([1])})
