"""Mean and sum over axes: exact integer sum, then one requantization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT32, IntType, int_type
from hbtool.ops.accumulator import clamped_onnx, finish
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import EXACT_FLOAT32, OnnxBuilder, Operand
from hbtool.ops.op import FAMILIES, Box, Family, IntegerOp, Sample, Tile, constraint
from hbtool.target.job import Work


@dataclass(frozen=True)
class SumAttributes:
    """Axes (not negative), zero points, type of the result, absorbed clamp."""

    axes: tuple[int, ...] = ()
    keepdims: int = 1
    x_zero_point: int = 0
    y_zero_point: int = 0
    y_type: str = "int8"
    clamp_min: int = INT32.min
    clamp_max: int = INT32.max


class ReduceSum(IntegerOp):
    """y = clamp(saturate(round_half_even(float32(sum(x - zp_x)) * m) + zp_y)); m = s_x / s_y, a mean's / count."""

    name = "ReduceSum"
    Attributes = SumAttributes
    parameters = (1,)
    squared: ClassVar[bool] = False

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        wide = m.widen(x[0], a.x_zero_point)
        total = m.reduce(m.multiply(wide, wide) if self.squared else wide, "sum", a.axes, bool(a.keepdims))
        return finish(m, a, total, None, x[1])

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand, factor = x[0], x[1]
        assert operand is not None and operand.type is not None and factor is not None
        y_type = int_type(a.y_type)
        count = graph.elements([operand.shape[i] for i in a.axes])
        real = b.as_float(operand, a.x_zero_point)
        exact = count << (operand.type.bits * (1 + self.squared)) < EXACT_FLOAT32
        if not exact:
            real = b.op("Cast", real, to=int(ir.DataType.DOUBLE))
        if self.squared:
            real = b.op("Mul", real, real)
        # ONNX takes an empty list of axes for all of them.
        total = b.op("ReduceSum", real, b.const(a.axes, np.int64), keepdims=a.keepdims) if a.axes else real
        if not exact:
            total = b.op("Cast", total, to=int(ir.DataType.FLOAT))
        y = b.from_float(b.op("Mul", total, b.value(factor)), y_type, a.y_zero_point)
        return [clamped_onnx(b, a, y)]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        x = shapes[0]
        assert x is not None
        return Tile((reduced_box(x, a.axes, bool(a.keepdims), box), None), a)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        x = shapes[0]
        assert x is not None
        return Work("vector", vector_ops=graph.elements(x), bits=types[0].bits)


def reduced_box(shape: Sequence[int], axes: Sequence[int], keepdims: bool, box: Box) -> Box:
    """The box of an operand of `shape` that a reduction over `axes` reads for output box `box`."""
    kept = iter(box)
    boxes: list[tuple[int, int]] = []
    for axis, size in enumerate(shape):
        if axis in axes:
            boxes.append((0, size))
            if keepdims:
                next(kept)
        else:
            boxes.append(next(kept))
    return tuple(boxes)


def reduction_axes(node: ir.Node) -> tuple[int, ...]:
    """The axes of an ONNX reduction, not negative, sorted (all axes where none are given)."""
    x = node.inputs[0]
    assert x is not None
    rank = len(graph.static_shape(x))
    if node.op_type.startswith("Global"):
        return tuple(range(2, rank))
    given = graph.constant(graph.input_at(node, 1))
    axes = tuple(int(i) for i in given) if given is not None else graph.attribute(node, "axes", ())
    if not axes:
        return () if graph.attribute(node, "noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(i % rank for i in axes))


class Reduction(Limited):
    """What all reductions over axes share."""

    @constraint()
    def constant_axes(self, node: ir.Node, limit: Any) -> bool | str:
        """axes that are constants"""
        axes = graph.input_at(node, 1)
        return axes is None or graph.constant(axes) is not None or "they are computed"

    @constraint(bayes=5, bayes_e=5)
    def reduced_rank(self, node: ir.Node, limit: int) -> bool | str:
        """an input of rank 2 to {limit}"""
        x = node.inputs[0]
        rank = 0 if x is None else len(graph.static_shape(x))
        return 2 <= rank <= limit or f"the rank is {rank}"

    @constraint("bayes", "bayes-e")
    def few_axes(self, node: ir.Node, limit: Any) -> bool | str:
        """a reduction of one axis; a sum or a mean also of height and width together"""
        x = node.inputs[0]
        assert x is not None
        axes, rank = reduction_axes(node), len(graph.static_shape(x))
        spatial = node.op_type != "ReduceMax" and rank == 4 and axes == (2, 3)
        return len(axes) == 1 or spatial or f"it reduces axes {', '.join(map(str, axes)) or 'none'} of rank {rank}"


class ReduceSumFloat(Reduction):
    """ONNX ReduceMean and ReduceSum over constant axes."""

    op_types = ("ReduceMean", "ReduceSum")
    absorbs_clamp = True
    rule_text = "exact integer sum, one float32 multiply"

    def families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        return FAMILIES if op_type == "ReduceMean" else FAMILIES[1:]

    @constraint("bernoulli2")
    def spatial_axes(self, node: ir.Node, limit: Any) -> bool | str:
        """a mean over height and width of a 4-D tensor"""
        x = node.inputs[0]
        return (x is not None and len(graph.static_shape(x)) == 4 and reduction_axes(node) == (2, 3)) or "it is not"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        assert x is not None
        axes = reduction_axes(node)
        result = b.result(node)
        shape = graph.static_shape(x)
        count = graph.elements([shape[i] for i in axes]) if node.op_type == "ReduceMean" else 1
        factor = b.multiplier([np.float32(b.q(x).scale) / np.float32(count)], [1.0], result.q.scale)
        attributes = SumAttributes(
            axes,
            graph.attribute(node, "keepdims", 1),
            b.q(x).zero_point,
            result.q.zero_point,
            result.q.type.name,
            *result.clamp,
        )
        operands = [b.x(x), b.const(factor, "multiplier")]
        b.emit(ReduceSum, operands, result.q, graph.static_shape(node.outputs[0]), attributes, represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(10).standard_normal((2, 3, 4, 5)).astype(np.float32)
        # Half a step of x on each element can add up in a sum; a mean keeps it at half a step of x.
        yield Sample("mean over H, W", "ReduceMean", (x + 1,), {1: np.array([2, 3])}, {"keepdims": 1}, steps=2.0)
        yield Sample("mean over last", "ReduceMean", (x,), {1: np.array([-1])}, {"keepdims": 0}, steps=2.0)
        yield Sample("sum over channels", "ReduceSum", (x,), {1: np.array([1])}, {"keepdims": 1}, steps=2.0)
