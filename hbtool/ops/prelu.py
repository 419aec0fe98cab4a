"""PRelu: one multiplier for values above zero, one per channel below; one slope for all channels is a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT32, IntType, int_type
from hbtool.ops.accumulator import clamped_onnx, finish
from hbtool.ops.broadcast import operand_box
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import FAMILIES, Box, Family, IntegerOp, Sample, Tile, constraint
from hbtool.ops.table import lower_table
from hbtool.target.job import Work


@dataclass(frozen=True)
class PReluAttributes:
    """Zero points, type of the result, absorbed clamp."""

    x_zero_point: int = 0
    y_zero_point: int = 0
    y_type: str = "int8"
    clamp_min: int = INT32.min
    clamp_max: int = INT32.max


class PRelu(IntegerOp):
    """y = clamp(saturate(round_half_even(float32(x - zp_x) * m) + zp_y)), m = above where x >= zp_x, else below.

    Operands: x, above float32 [1] = s_x / s_y, below float32 (broadcasts against x) = slope * s_x / s_y.
    """

    name = "PRelu"
    Attributes = PReluAttributes
    parameters = (1, 2)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        wide = m.widen(x[0], a.x_zero_point)
        factor = m.where(m.compare("ge", wide, m.clamp(wide, 0, 0)), x[1], x[2])
        return finish(m, a, wide, None, factor)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        data, above, below = (o for o in x if o is not None)
        y_type = int_type(a.y_type)
        real = b.as_float(data, a.x_zero_point)
        # One of the two products is zero, so their sum is the other: no third rounding.
        positive = b.op("Mul", b.op("Relu", real), b.value(above))
        negative = b.op("Mul", b.op("Min", real, b.const(0.0, np.float32)), b.value(below))
        y = b.from_float(b.op("Add", positive, negative), y_type, a.y_zero_point)
        return [clamped_onnx(b, a, y)]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        below = shapes[2]
        assert below is not None
        return Tile((box, None, operand_box(below, box)), a)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        return Work("vector", vector_ops=2 * graph.elements(out), bits=types[0].bits)


class PReluFloat(Limited):
    """ONNX PRelu with constant slopes."""

    op_types = ("PRelu",)
    families = ("bernoulli2", "bayes-e", "nash")
    absorbs_clamp = True
    int8_only = ("bayes-e",)
    rule_text = "one float32 multiply, the multiplier chosen by the sign; a single slope: a table"

    @constraint()
    def constant_slopes(self, node: ir.Node, limit: Any) -> bool | str:
        """constant slopes"""
        return graph.constant(node.inputs[1]) is not None or "they are computed"

    @constraint(bayes_e=4)
    def image(self, node: ir.Node, limit: int) -> bool | str:
        """a tensor of rank {limit}"""
        rank = len(graph.static_shape(node.outputs[0]))
        return rank == limit or f"the rank is {rank}"

    def trained_families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        return FAMILIES

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        slope = graph.constant(node.inputs[1])
        assert x is not None and slope is not None
        if slope.size == 1:
            value = float(slope.reshape(-1)[0])
            lower_table(node, b, x, lambda v: np.where(v >= 0, v, value * v))
            return
        result = b.result(node)
        scale, out = b.q(x).scale, graph.static_shape(node.outputs[0])
        above = b.multiplier([scale], [1.0], result.q.scale)
        # A constant of full rank: a tile then cuts it along the axes it has.
        full = slope.reshape((1,) * (len(out) - slope.ndim) + slope.shape)
        below = b.multiplier([scale], full, result.q.scale).reshape(full.shape)
        attributes = PReluAttributes(b.q(x).zero_point, result.q.zero_point, result.q.type.name, *result.clamp)
        operands = [b.x(x), b.const(above, "multiplier"), b.const(below, "slopes")]
        b.emit(PRelu, operands, result.q, out, attributes, represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(23)
        x = rng.standard_normal((2, 4, 5, 6)).astype(np.float32)
        yield Sample("per channel", "PRelu", (x,), {1: rng.uniform(-0.5, 1.5, (4, 1, 1)).astype(np.float32)}, steps=1.5)
        yield Sample("per element", "PRelu", (x,), {1: rng.uniform(0, 0.5, (4, 5, 6)).astype(np.float32)}, steps=1.5)
        yield Sample("one slope", "PRelu", (x,), {1: np.array([0.2], np.float32)}, steps=1.5)
