"""Sums and differences of two tensors: one exact integer sum, one rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

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
from hbtool.ops.op import Box, IntegerOp, Sample, Tile, constraint
from hbtool.ops.table import is_scalar, lower_table


@dataclass(frozen=True)
class AddAttributes:
    """Dyadic ratios s_x / s_y (negative to subtract), zero points, type of the result, absorbed clamp."""

    a_ratio: float = 1.0
    b_ratio: float = 1.0
    a_zero_point: int = 0
    b_zero_point: int = 0
    y_zero_point: int = 0
    y_type: str = "int8"
    clamp_min: int = INT32.min
    clamp_max: int = INT32.max


class Add(IntegerOp):
    """y = clamp(saturate(round_half_even((a - zp_a) * r_a + (b - zp_b) * r_b) + zp_y)), exact before the rounding.

    r_a and r_b are rounded to one power-of-two denominator (14-bit numerators for int8, 22-bit for int16).
    """

    name = "Add"
    Attributes = AddAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        terms = [(x[0], a.a_zero_point, a.a_ratio), (x[1], a.b_zero_point, a.b_ratio)]
        y_type = int_type(a.y_type)
        y = m.weighted_sum(terms, y_type, a.y_zero_point)
        return clamped(m, a, y)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        left, right = x[0], x[1]
        assert left is not None and right is not None
        y_type = int_type(a.y_type)
        narrow = left.type is right.type is INT8 and y_type is not INT32
        # QLinearAdd adds the zero point before it rounds: the same only where that keeps even numbers even.
        if narrow and y_type is INT8 and a.a_ratio > 0 and a.b_ratio > 0 and a.y_zero_point % 2 == 0:
            y = b.op(
                "QLinearAdd",
                b.value(left),
                b.const(a.a_ratio, np.float32),
                b.zero_point(INT8, a.a_zero_point),
                b.value(right),
                b.const(a.b_ratio, np.float32),
                b.zero_point(INT8, a.b_zero_point),
                b.const(1.0, np.float32),
                b.zero_point(INT8, a.y_zero_point),
                domain="com.microsoft",
            )
        elif narrow:
            # Products of 9-bit differences and 14-bit ratios, and their sum, are exact in float32.
            first = b.op("Mul", b.as_float(left, a.a_zero_point), b.const(a.a_ratio, np.float32))
            second = b.op("Mul", b.as_float(right, a.b_zero_point), b.const(a.b_ratio, np.float32))
            y = b.from_float(b.op("Add", first, second), y_type, a.y_zero_point)
        else:
            terms = [
                self._term(b, operand, zero_point, ratio)
                for operand, zero_point, ratio in (
                    (left, a.a_zero_point, a.a_ratio),
                    (right, a.b_zero_point, a.b_ratio),
                )
            ]
            total = b.op("Round", b.op("Add", *terms))
            y = b.from_float(b.op("Cast", total, to=int(ir.DataType.FLOAT)), y_type, a.y_zero_point)
        return [clamped_onnx(b, a, y)]

    @staticmethod
    def _term(b: OnnxBuilder, operand: Operand, zero_point: int, ratio: float) -> ir.Value:
        """(x - zp) * ratio in float64, exact for every integer type and ratio."""
        real = b.op("Cast", b.as_float(operand, zero_point), to=int(ir.DataType.DOUBLE))
        return b.op("Mul", real, b.const(ratio, np.float64))

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        return Tile(tuple(operand_box(s, box) for s in shapes if s is not None), a)


class _Sum(Broadcasting):
    """Add and Sub."""

    absorbs_clamp = True
    rule_text = "both operands scaled by dyadic ratios, one exact integer sum, one rounding"
    elementwise = True
    sign: ClassVar[float]

    @constraint("bernoulli2")
    def same_or_per_channel(self, node: ir.Node, limit: Any) -> bool | str:
        """operands of one shape, or one of them with a value per channel (1xCx1x1)"""
        return same_or_per_channel(node)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:
        first, second = node.inputs[0], node.inputs[1]
        assert first is not None and second is not None
        left, right = graph.constant(first), graph.constant(second)
        if right is not None and is_scalar(right, first, node):
            value = self.sign * float(right.reshape(-1)[0])
            lower_table(node, b, first, lambda v: v + value)
            return
        if left is not None and is_scalar(left, second, node):
            value = float(left.reshape(-1)[0])
            lower_table(node, b, second, lambda v: value + self.sign * v)
            return
        result = b.result(node)
        wide = INT16 if result.q.type is INT16 else INT8
        operands = [b.constant_operand(v, wide) if graph.constant(v) is not None else b.x(v) for v in (first, second)]
        meanings = [q for v in operands if (q := meta.qparams(v)) is not None]
        ratios = [meanings[0].scale / result.q.scale, self.sign * meanings[1].scale / result.q.scale]
        widest = max((q.type for q in meanings), key=lambda t: t.bits)
        a_ratio, b_ratio = dyadic_ratios(ratios, widest)
        attributes = AddAttributes(
            a_ratio,
            b_ratio,
            meanings[0].zero_point,
            meanings[1].zero_point,
            result.q.zero_point,
            result.q.type.name,
            *result.clamp,
        )
        b.emit(Add, operands, result.q, graph.static_shape(node.outputs[0]), attributes, represents=result.value)

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:
        assert x[0] is not None and x[1] is not None
        return x[0] + self.sign * x[1]

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(5)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        op = self.op_types[0]
        # Each operand is off by half a step of its own scale; together up to 1.5 steps of the sum's.
        yield Sample("same shape", op, (normal(1, 4, 5, 6), 3 * normal(1, 4, 5, 6)), steps=2.0)
        yield Sample("broadcast channels", op, (normal(2, 4, 5, 6), normal(1, 4, 1, 1)), steps=2.0)
        yield Sample("scalar constant", op, (normal(1, 4, 5, 6),), {1: np.float32(0.75)}, steps=1.5)
        yield Sample("tensor constant", op, (normal(1, 4, 5, 6),), {1: normal(1, 4, 5, 6)}, steps=2.0)
        yield Sample("constant first", op, (normal(1, 4, 5, 6),), {0: normal(4, 1, 6)}, steps=2.0)


class AddFloat(_Sum):
    """ONNX Add."""

    op_types = ("Add",)
    sign = 1.0


class SubFloat(_Sum):
    """ONNX Sub."""

    op_types = ("Sub",)
    families = ("bayes", "bayes-e", "nash")
    sign = -1.0
