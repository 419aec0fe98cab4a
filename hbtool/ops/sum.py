"""Sum and Mean of any number of tensors: one exact integer sum, one rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT16, INT32, IntType, int_type
from hbtool.numerics.rescale import dyadic_ratios
from hbtool.ops.accumulator import clamped, clamped_onnx
from hbtool.ops.broadcast import operand_box
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Broadcasting, same_or_per_channel
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import FAMILIES, Box, Family, IntegerOp, Sample, Tile, constraint
from hbtool.target.job import Work


@dataclass(frozen=True)
class WeightedSumAttributes:
    """Dyadic ratio and zero point per operand, zero point and type of the result, absorbed clamp."""

    ratios: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    y_zero_point: int = 0
    y_type: str = "int8"
    clamp_min: int = INT32.min
    clamp_max: int = INT32.max


class WeightedSum(IntegerOp):
    """y = clamp(saturate(round_half_even(sum of (x_i - zp_i) * r_i) + zp_y)), exact before the rounding; broadcast."""

    name = "WeightedSum"
    Attributes = WeightedSumAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        y_type = int_type(a.y_type)
        y = m.weighted_sum(list(zip(x, a.zero_points, a.ratios, strict=True)), y_type, a.y_zero_point)
        return clamped(m, a, y)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        y_type = int_type(a.y_type)
        terms = []
        for operand, zero_point, ratio in zip(x, a.zero_points, a.ratios, strict=True):
            assert operand is not None
            real = b.op("Cast", b.as_float(operand, zero_point), to=int(ir.DataType.DOUBLE))
            terms.append(b.op("Mul", real, b.const(ratio, np.float64)))
        total = b.op("Round", b.op("Sum", *terms))
        y = b.from_float(b.op("Cast", total, to=int(ir.DataType.FLOAT)), y_type, a.y_zero_point)
        return [clamped_onnx(b, a, y)]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        return Tile(tuple(operand_box(s, box) for s in shapes if s is not None), a)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        bits = max((t.bits for t in types), default=8)
        return Work("vector", vector_ops=graph.elements(out) * max(len(shapes) - 1, 1), bits=bits)


class SumFloat(Broadcasting):
    """ONNX Sum and Mean of one or more tensors."""

    op_types = ("Sum", "Mean")
    absorbs_clamp = True
    rule_text = "all operands scaled by dyadic ratios, one exact integer sum, one rounding"

    def families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        return FAMILIES if op_type == "Sum" else ("nash",)

    @constraint("bernoulli2")
    def same_or_per_channel(self, node: ir.Node, limit: Any) -> bool | str:
        """operands of one shape, or one of them with a value per channel (1xCx1x1)"""
        return same_or_per_channel(node)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        result = b.result(node)
        wide = INT16 if result.q.type is INT16 else INT8
        values = [v for v in node.inputs if v is not None]
        operands = [b.constant_operand(v, wide) if graph.constant(v) is not None else b.x(v) for v in values]
        meanings = [q for v in operands if (q := meta.qparams(v)) is not None]
        share = 1.0 / len(operands) if node.op_type == "Mean" else 1.0
        widest = max((q.type for q in meanings), key=lambda t: t.bits)
        ratios = dyadic_ratios([q.scale * share / result.q.scale for q in meanings], widest)
        zero_points = tuple(q.zero_point for q in meanings)
        attributes = WeightedSumAttributes(ratios, zero_points, result.q.zero_point, result.q.type.name, *result.clamp)
        shape = graph.static_shape(node.outputs[0])
        b.emit(WeightedSum, operands, result.q, shape, attributes, represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(33)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        yield Sample("three", "Sum", (normal(1, 4, 5, 6), 2 * normal(1, 4, 5, 6), normal(1, 4, 1, 1)), steps=2.5)
        yield Sample("one", "Sum", (normal(1, 4, 5),))
        yield Sample("with a constant", "Sum", (normal(1, 4, 5), normal(1, 4, 5)), {2: normal(4, 5)}, steps=2.5)
        yield Sample("mean", "Mean", (normal(2, 3, 4), 3 * normal(2, 3, 4), normal(3, 4)), steps=2.5)
