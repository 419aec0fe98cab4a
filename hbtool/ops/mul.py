"""Products of two tensors, and division by constants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT16, INT32, IntType, int_type
from hbtool.ops.broadcast import operand_box
from hbtool.ops.conv import fold_input_scales, lower_conv
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, FloatOp, IntegerOp, Sample, Tile, constraint
from hbtool.ops.table import is_scalar, lower_table
from hbtool.ops.window import Window


@dataclass(frozen=True)
class MulAttributes:
    """Zero points, type of the result, absorbed clamp."""

    a_zero_point: int = 0
    b_zero_point: int = 0
    y_zero_point: int = 0
    y_type: str = "int8"
    clamp_min: int = INT32.min
    clamp_max: int = INT32.max


class Mul(IntegerOp):
    """y = clamp(saturate(round_half_even(float32((a - zp_a) * (b - zp_b)) * m) + zp_y)), m = s_a * s_b / s_y."""

    name = "Mul"
    Attributes = MulAttributes
    parameters = (2,)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        product = m.multiply(m.widen(x[0], a.a_zero_point), m.widen(x[1], a.b_zero_point))
        y_type = int_type(a.y_type)
        y = m.requantize(product, x[2], y_type, a.y_zero_point)
        return m.clamp(y, max(a.clamp_min, y_type.min), min(a.clamp_max, y_type.max))

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        left, right, factor = x[0], x[1], x[2]
        assert left is not None and right is not None and factor is not None
        y_type = int_type(a.y_type)
        # QLinearMul rounds differently; plain float steps are the definition: the product of two int16 rounds once.
        product = b.op("Mul", b.as_float(left, a.a_zero_point), b.as_float(right, a.b_zero_point))
        y = b.from_float(b.op("Mul", product, b.value(factor)), y_type, a.y_zero_point)
        return [b.clamp(y, y_type, max(a.clamp_min, y_type.min), min(a.clamp_max, y_type.max))]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        first, second = shapes[0], shapes[1]
        assert first is not None and second is not None
        return Tile((operand_box(first, box), operand_box(second, box), None), a)


class MulFloat(FloatOp):
    """ONNX Mul: a scalar constant becomes a table, a constant per channel a depthwise convolution."""

    op_types = ("Mul",)
    absorbs_clamp = True
    elementwise = True
    rule_text = "exact product, one float32 multiply; by a constant: a table or a depthwise convolution"

    @constraint()
    def one_activation(self, node: ir.Node, limit: Any) -> bool | str:
        """at least one computed operand"""
        return bool(graph.activations(node)) or "both are constants"

    @constraint(bernoulli2=4, bayes=5, bayes_e=10, nash=10)
    def rank(self, node: ir.Node, limit: int) -> bool | str:
        """rank at most {limit}"""
        rank = len(graph.static_shape(node.outputs[0]))
        return rank <= limit or f"the rank is {rank}"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        first, second = node.inputs[0], node.inputs[1]
        assert first is not None and second is not None
        if graph.constant(first) is not None:
            first, second = second, first
        factor = graph.constant(second)
        if factor is not None and is_scalar(factor, first, node):
            value = float(factor.reshape(-1)[0])
            lower_table(node, b, first, lambda v: v * value)
            return
        if factor is not None and self._per_channel(factor, first):
            channels = graph.static_shape(first)[1]
            weight = np.broadcast_to(factor.reshape(-1), (channels,)).reshape(channels, 1, 1, 1).astype(np.float32)
            weight, scale = fold_input_scales(weight, b.q(first), channels)
            lower_conv(node, b, first, second, weight, None, scale, Window((1, 1), (1, 1), (0,) * 4, (1, 1)), channels)
            return
        result = b.result(node)
        wide = INT16 if result.q.type is INT16 else INT8
        operands = [b.x(first), b.constant_operand(second, wide) if factor is not None else b.x(second)]
        meanings = [q for v in operands if (q := meta.qparams(v)) is not None]
        scale_factor = b.multiplier([meanings[0].scale], [meanings[1].scale], result.q.scale)
        attributes = MulAttributes(
            meanings[0].zero_point, meanings[1].zero_point, result.q.zero_point, result.q.type.name, *result.clamp
        )
        inputs = [*operands, b.const(scale_factor, "multiplier")]
        b.emit(Mul, inputs, result.q, graph.static_shape(node.outputs[0]), attributes, represents=result.value)

    @staticmethod
    def _per_channel(factor: np.ndarray, x: ir.Value) -> bool:
        shape = graph.static_shape(x)
        padded = (1,) * (len(shape) - factor.ndim) + factor.shape
        return len(shape) == 4 and padded == (1, shape[1], 1, 1)

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:  # noqa: D102
        assert x[0] is not None and x[1] is not None
        return x[0] * x[1]

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(6)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        # Relative errors of half a step of either operand, on values up to the operand's own maximum.
        yield Sample("same shape", "Mul", (normal(1, 4, 5, 6), normal(1, 4, 5, 6)), steps=3.0)
        yield Sample("gate", "Mul", (normal(1, 4, 5, 6), normal(1, 4, 1, 1)), steps=3.0)
        yield Sample("scalar constant", "Mul", (normal(1, 4, 5, 6),), {1: np.float32(-0.3)}, steps=1.5)
        yield Sample("constant per channel", "Mul", (normal(1, 4, 5, 6),), {0: normal(1, 4, 1, 1)}, steps=2.0)
        yield Sample("tensor constant", "Mul", (normal(2, 5, 6),), {1: normal(5, 6)}, steps=3.0)


class DivFloat(FloatOp):
    """ONNX Div by a constant (a table); division of two feature maps stays on the CPU."""

    op_types = ("Div",)
    elementwise = True
    rule_text = "by a scalar constant, or a scalar constant divided by x: a table"

    @constraint()
    def scalar_constant(self, node: ir.Node, limit: Any) -> bool | str:
        """one computed operand and one scalar constant"""
        pairs = ((0, 1), (1, 0))
        for constant_at, other_at in pairs:
            array, other = graph.constant(node.inputs[constant_at]), node.inputs[other_at]
            if array is not None and other is not None and is_scalar(array, other, node):
                return True
        return "both are feature maps, or the constant is a tensor"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        first, second = node.inputs[0], node.inputs[1]
        assert first is not None and second is not None
        divisor, dividend = graph.constant(second), graph.constant(first)
        if divisor is not None:
            value = float(divisor.reshape(-1)[0])
            lower_table(node, b, first, lambda v: v / value)
        else:
            assert dividend is not None
            value = float(dividend.reshape(-1)[0])
            lower_table(node, b, second, lambda v: value / v)

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:  # noqa: D102
        assert x[0] is not None and x[1] is not None
        return x[0] / x[1]

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.linspace(0.5, 4, 60, dtype=np.float32).reshape(3, 20)
        yield Sample("by a constant", "Div", (x,), {1: np.float32(3.7)}, steps=1.0)
        # 1/x is steep near 0.5: half a step of x moves it by up to four steps of y's own scale.
        yield Sample("reciprocal", "Div", (x,), {0: np.float32(2.0)}, steps=6.0)
