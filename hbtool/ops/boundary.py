"""Quantize, Dequantize, Requantize: where real numbers become integers, integers real numbers, and scales change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT32, IntType, QParams, int_type
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Tile


@dataclass(frozen=True)
class BoundaryAttributes:
    """Scales and zero point of the integer side."""

    type: str = "int8"
    scales: tuple[float, ...] = (1.0,)
    zero_point: int = 0
    axis: int = -1

    @classmethod
    def of(cls, q: QParams) -> BoundaryAttributes:
        """The attributes that describe `q`."""
        return cls(q.type.name, q.scales, q.zero_point, -1 if q.axis is None else q.axis)

    @property
    def q(self) -> QParams:
        """The meaning they describe."""
        return QParams(int_type(self.type), self.scales, self.zero_point, None if self.axis < 0 else self.axis)


class Quantize(IntegerOp):
    """saturate(round_half_even(x / scale) + zero_point), float32. Runs on the CPU, at the entry of a segment."""

    name = "Quantize"
    Attributes = BoundaryAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.quantize(x[0], a.q)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None and operand.value is not None
        q: QParams = a.q
        scales = b.const(np.asarray(q.scales if q.axis is not None else q.scales[0], np.float32))
        axis = q.axis
        if q.type is INT8:
            zero_point = b.zero_point(INT8, q.zero_point)
            if axis is not None:
                zero_point = b.const(np.full(len(q.scales), 128 + q.zero_point, np.uint8))
            return [b.op("QuantizeLinear", operand.value, scales, zero_point, axis=axis)]
        shape = q.scale_array(len(operand.shape))
        return [b.from_float(b.op("Div", operand.value, b.const(shape)), q.type, q.zero_point)]


class Dequantize(IntegerOp):
    """float32(q - zero_point) * scale. Runs on the CPU, at the exit of a segment."""

    name = "Dequantize"
    Attributes = BoundaryAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.dequantize(x[0], a.q)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None
        q: QParams = a.q
        if q.type is INT8 and q.axis is None:
            zero_point = b.zero_point(INT8, q.zero_point)
            return [b.op("DequantizeLinear", b.value(operand), b.const(q.scale, np.float32), zero_point)]
        real = b.as_float(operand, q.zero_point)
        return [b.op("Mul", real, b.const(q.scale_array(len(operand.shape))))]


@dataclass(frozen=True)
class DecodeAttributes:
    """What leaves: `bool` or `int64`."""

    to: str = "bool"


class Decode(IntegerOp):
    """Truth values (int8 0 or 1) leave as bool, indices (int32) as int64. Runs on the CPU, at the exit of a segment."""

    name = "Decode"
    Attributes = DecodeAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return x[0] != 0 if a.to == "bool" else m.widen(x[0])

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None
        if a.to == "bool":
            return [b.op("Cast", b.as_float(operand), to=int(ir.DataType.BOOL))]
        return [b.op("Cast", b.value(operand), to=int(ir.DataType.INT64))]


class EncodeBool(IntegerOp):
    """A bool tensor enters as int8 0 or 1. Runs on the CPU, at the entry of a segment."""

    name = "EncodeBool"

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.narrow(m.widen(x[0]), INT8)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None and operand.value is not None
        return [b.op("Where", operand.value, b.zero_point(INT8, 1), b.zero_point(INT8, 0))]


TRUTH = QParams(INT8, (1.0,))
"""What the integers of a bool tensor mean on the BPU: 0 or 1."""

INDEX = QParams(INT32, (1.0,))
"""What the integers of an index tensor mean on the BPU: themselves."""


def leaving_operator(value: ir.Value, q: QParams) -> tuple[type[IntegerOp], Any]:
    """The operator and attributes by which the integers of float-graph value `value` leave the BPU."""
    if value.dtype == ir.DataType.BOOL:
        return Decode, DecodeAttributes("bool")
    if value.dtype == ir.DataType.INT64:
        return Decode, DecodeAttributes("int64")
    return Dequantize, BoundaryAttributes.of(q)


@dataclass(frozen=True)
class RequantizeAttributes:
    """Zero points, and the type of the result."""

    x_zero_point: int = 0
    y_zero_point: int = 0
    y_type: str = "int8"


class Requantize(IntegerOp):
    """saturate(round_half_even(float32(x - zp_x) * m) + zp_y), m = s_x / s_y in the march's multiplier width."""

    name = "Requantize"
    Attributes = RequantizeAttributes
    parameters = (1,)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.requantize(m.widen(x[0], a.x_zero_point), x[1], int_type(a.y_type), a.y_zero_point)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand, factor = x
        assert operand is not None and factor is not None
        scaled = b.op("Mul", b.as_float(operand, a.x_zero_point), b.value(factor))
        return [b.from_float(scaled, int_type(a.y_type), a.y_zero_point)]

    def tile(self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box) -> Tile:  # noqa: D102
        return Tile((box, None), a)


def requantized(b: IntegerBuilder, x: ir.Value, q: QParams, represents: ir.Value | None = None) -> ir.Value:
    """The integers of `x` (an INTEGER-graph value) in the meaning `q`: itself where nothing changes.

    Args:
        b: the `IntegerBuilder` in use.
        x: integer value with per-tensor meaning.
        q: wanted per-tensor meaning.
        represents: float value that the result stands for.
    """
    have = meta.qparams(x)
    assert have is not None, "integer values carry their meaning"
    if have == q:
        return x
    factor = b.const(b.multiplier([have.scale], [1.0], q.scale), "multiplier")
    attributes = RequantizeAttributes(have.zero_point, q.zero_point, q.type.name)
    return b.emit(
        Requantize,
        [x, factor],
        q,
        graph.static_shape(x),
        attributes,
        name=f"{meta.float_value(x) or x.name}_Requantize",
        represents=represents,
    )


def entered_bool(b: IntegerBuilder, value: ir.Value) -> ir.Value:
    """The int8 0 or 1 of a bool value of the float graph; one that comes from the CPU is encoded."""
    known = b.integer_of(value)
    if known is not None:
        return known
    out = b.make_value(f"{value.name}_quantized", TRUTH, graph.static_shape(value))
    node = ir.Node(graph.INTEGER_DOMAIN, EncodeBool.name, [value], outputs=[out], name=f"{value.name}_HzQuantize")
    meta.set_placement(node, meta.Placement("CPU", "enters a BPU segment as 0 or 1"))
    b.insert(node)
    b.bind(value, out)
    return out
