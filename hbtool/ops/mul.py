"""Products of two tensors, and division by constants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.numerics import qtype
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT16, INT32, IntType, int_type
from hbtool.ops.accumulator import clamped_onnx, finish
from hbtool.ops.broadcast import operand_box
from hbtool.ops.conv import fold_input_scales, lower_conv
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import PerChannel
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Sample, Tile
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
        return finish(m, a, product, None, x[2])

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        left, right, factor = x[0], x[1], x[2]
        assert left is not None and right is not None and factor is not None
        y_type = int_type(a.y_type)
        # QLinearMul rounds differently; plain float steps are the definition: the product of two int16 rounds once.
        product = b.op("Mul", b.as_float(left, a.a_zero_point), b.as_float(right, a.b_zero_point))
        y = b.from_float(b.op("Mul", product, b.value(factor)), y_type, a.y_zero_point)
        return [clamped_onnx(b, a, y)]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        first, second = shapes[0], shapes[1]
        assert first is not None and second is not None
        return Tile((operand_box(first, box), operand_box(second, box), None), a)


class MulFloat(PerChannel):
    """ONNX Mul: a scalar constant becomes a table, a constant per channel a depthwise convolution."""

    op_types = ("Mul",)
    absorbs_clamp = True
    elementwise = True
    rule_text = "exact product, one float32 multiply; by a constant: a table or a depthwise convolution"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        first, second = node.inputs[0], node.inputs[1]
        assert first is not None and second is not None
        if graph.constant(first) is not None:
            first, second = second, first
        lower_product(node, b, first, second, graph.constant(second))

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


def lower_product(
    node: ir.Node, b: IntegerBuilder, first: ir.Value, second: ir.Value, factor: np.ndarray | None
) -> None:
    """Emit first * second as the result of `node`; `factor` stands in for `second` where it is constant."""
    if factor is not None and is_scalar(factor, first, node):
        value = float(factor.reshape(-1)[0])
        lower_table(node, b, first, lambda v: v * value)
        return
    if factor is not None and _per_channel(factor, first):
        channels = graph.static_shape(first)[1]
        weight = np.broadcast_to(factor.reshape(-1), (channels,)).reshape(channels, 1, 1, 1).astype(np.float32)
        weight, scale = fold_input_scales(weight, b.q(first), channels)
        lower_conv(node, b, first, None, weight, None, scale, Window((1, 1), (1, 1), (0,) * 4, (1, 1)), channels)
        return
    result = b.result(node)
    wide = INT16 if result.q.type is INT16 else INT8
    operands = [b.x(first), _constant(b, second, factor, wide) if factor is not None else b.x(second)]
    meanings = [q for v in operands if (q := meta.qparams(v)) is not None]
    scale_factor = b.multiplier([meanings[0].scale], [meanings[1].scale], result.q.scale)
    attributes = MulAttributes(
        meanings[0].zero_point, meanings[1].zero_point, result.q.zero_point, result.q.type.name, *result.clamp
    )
    inputs = [*operands, b.const(scale_factor, "multiplier")]
    b.emit(Mul, inputs, result.q, graph.static_shape(node.outputs[0]), attributes, represents=result.value)


def _constant(b: IntegerBuilder, value: ir.Value, factor: np.ndarray, type_: IntType) -> ir.Value:
    given = graph.constant(value)
    if given is not None and np.array_equal(given, factor):
        return b.constant_operand(value, type_)
    q = qtype.symmetric(qtype.magnitude(factor), type_)
    return b.const(qtype.quantize(factor, q), f"constant_{value.name}", q)


def _per_channel(factor: np.ndarray, x: ir.Value) -> bool:
    shape = graph.static_shape(x)
    padded = (1,) * (len(shape) - factor.ndim) + factor.shape
    return len(shape) == 4 and padded == (1, shape[1], 1, 1)
