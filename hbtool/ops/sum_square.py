"""Sum of squares over axes: exact integer sum, then one requantization (inside normalizations)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import IntType, int_type
from hbtool.ops.onnx_builder import EXACT_FLOAT32, OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Tile, Work
from hbtool.ops.reduce_mean import SumAttributes, reduced_box


class ReduceSumSquare(IntegerOp):
    """y = clamp(saturate(round_half_even(float32(sum((x - zp_x)^2)) * m) + zp_y))."""

    name = "ReduceSumSquare"
    Attributes = SumAttributes
    parameters = (1,)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        wide = m.widen(x[0], a.x_zero_point)
        total = m.reduce(m.multiply(wide, wide), "sum", a.axes, bool(a.keepdims))
        y_type = int_type(a.y_type)
        y = m.requantize(total, x[1], y_type, a.y_zero_point)
        return m.clamp(y, max(a.clamp_min, y_type.min), min(a.clamp_max, y_type.max))

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand, factor = x[0], x[1]
        assert operand is not None and operand.type is not None and factor is not None
        y_type = int_type(a.y_type)
        count = graph.elements([operand.shape[i] for i in a.axes])
        real = b.as_float(operand, a.x_zero_point)
        exact = count << (2 * operand.type.bits) < EXACT_FLOAT32
        if not exact:
            real = b.op("Cast", real, to=int(ir.DataType.DOUBLE))
        total = b.op("ReduceSumSquare", real, b.const(a.axes, np.int64), keepdims=a.keepdims)
        if not exact:
            total = b.op("Cast", total, to=int(ir.DataType.FLOAT))
        y = b.from_float(b.op("Mul", total, b.value(factor)), y_type, a.y_zero_point)
        return [b.clamp(y, y_type, max(a.clamp_min, y_type.min), min(a.clamp_max, y_type.max))]

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
        return Work("vector", vector_ops=2 * graph.elements(x), bits=types[0].bits)
