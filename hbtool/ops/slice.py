"""Slice and Split: part of a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import IntType
from hbtool.ops.boundary import requantized
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Sample, Tile, constraint


@dataclass(frozen=True)
class SliceAttributes:
    """Start, stop and step of every axis; a stop of -1 behind a negative step means past the first element."""

    starts: tuple[int, ...] = ()
    stops: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()


class Slice(IntegerOp):
    """x[start:stop:step] on every axis; the scale does not change."""

    name = "Slice"
    Attributes = SliceAttributes
    moves = True

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.slice(x[0], list(zip(a.starts, a.stops, a.steps, strict=True)))

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None
        changed = [i for i, size in enumerate(operand.shape) if (a.starts[i], a.stops[i], a.steps[i]) != (0, size, 1)]
        if not changed:
            return [b.op("Identity", b.value(operand))]
        # ONNX reads a stop of -1 as the last element; "past the first" is any number below -size.
        stops = [-operand.shape[i] - 1 if a.steps[i] < 0 and a.stops[i] < 0 else a.stops[i] for i in changed]
        lists = ([a.starts[i] for i in changed], stops, changed, [a.steps[i] for i in changed])
        return [b.op("Slice", b.value(operand), *(b.const(v, np.int64) for v in lists))]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile | None:
        if any(step < 1 for step in a.steps):
            return None
        source = tuple(
            (start + low * step, start + (high - 1) * step + 1)
            for start, step, (low, high) in zip(a.starts, a.steps, box, strict=True)
        )
        sizes = tuple(high - low for low, high in source)
        return Tile((source,), SliceAttributes((0,) * len(box), sizes, a.steps))


class SliceFloat(Limited):
    """ONNX Slice with constant bounds."""

    op_types = ("Slice",)
    passive = True
    rule_text = "addresses only"

    @constraint()
    def constant_bounds(self, node: ir.Node, limit: Any) -> bool | str:
        """starts, ends, axes and steps that are constants"""
        return all(v is None or graph.constant(v) is not None for v in node.inputs[1:]) or "they are computed"

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        assert x is not None
        result = b.result(node)
        shape = graph.static_shape(x)
        source = requantized(b, b.x(x), result.q)
        out = graph.static_shape(node.outputs[0])
        b.emit(Slice, [source], result.q, out, self._bounds(node, shape), represents=result.value)

    @staticmethod
    def _bounds(node: ir.Node, shape: tuple[int, ...]) -> SliceAttributes:
        starts, stops, axes, steps = (graph.constant(graph.input_at(node, i)) for i in range(1, 5))
        assert starts is not None and stops is not None
        axis_list = range(len(starts)) if axes is None else [int(i) % len(shape) for i in axes]
        bounds = [(0, size, 1) for size in shape]
        for k, axis in enumerate(axis_list):
            step = 1 if steps is None else int(steps[k])
            start, stop, step = slice(int(starts[k]), int(stops[k]), step).indices(shape[axis])
            bounds[axis] = (start, stop, step)
        return SliceAttributes(*(tuple(b[i] for b in bounds) for i in range(3)))

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(14).standard_normal((1, 8, 6, 7)).astype(np.float32)
        yield Sample("channels", "Slice", (x,), {1: np.array([2]), 2: np.array([6]), 3: np.array([1])})
        every_other = {1: np.array([0, 1]), 2: np.array([99, 99]), 3: np.array([2, 3]), 4: np.array([2, 2])}
        yield Sample("every other pixel", "Slice", (x,), every_other)
        backwards = {1: np.array([-1]), 2: np.array([-99]), 3: np.array([3]), 4: np.array([-1])}
        yield Sample("backwards", "Slice", (x,), backwards)


class SplitFloat(Limited):
    """ONNX Split: one Slice per output."""

    op_types = ("Split",)
    passive = True
    rule_text = "addresses only"

    @constraint("bernoulli2", "bayes", "bayes-e")
    def not_the_batch(self, node: ir.Node, limit: Any) -> bool | str:
        """an axis other than the first"""
        x = node.inputs[0]
        assert x is not None
        axis = graph.attribute(node, "axis", 0) % len(graph.static_shape(x))
        return axis != 0 or "the first is split"

    @constraint("bernoulli2")
    def equal_parts(self, node: ir.Node, limit: Any) -> bool | str:
        """equal parts"""
        return len({graph.static_shape(v) for v in node.outputs}) == 1 or "they differ"

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        assert x is not None
        shape = graph.static_shape(x)
        axis = graph.attribute(node, "axis", 0) % len(shape)
        first = 0
        for index, value in enumerate(node.outputs):
            out = graph.static_shape(value)
            starts, stops = [0] * len(shape), list(shape)
            starts[axis], stops[axis] = first, first + out[axis]
            first += out[axis]
            result = b.result(node, index)
            attributes = SliceAttributes(tuple(starts), tuple(stops), (1,) * len(shape))
            source = requantized(b, b.x(x), result.q)
            b.emit(Slice, [source], result.q, out, attributes, represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(15).standard_normal((1, 8, 3, 4)).astype(np.float32)
        yield Sample("uneven", "Split", (x,), {1: np.array([3, 5])}, {"axis": 1}, outputs=2)
        yield Sample("two halves", "Split", (x,), attributes={"axis": -1, "num_outputs": 2}, outputs=2)
