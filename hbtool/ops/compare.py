"""Comparisons of two feature maps: integers brought to a common denominator and compared exactly; 0 or 1 as int8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.numerics import qtype
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT16, IntType
from hbtool.numerics.rescale import dyadic_ratios
from hbtool.ops.boundary import TRUTH
from hbtool.ops.broadcast import operand_box
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Broadcasting, one_broadcasts
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Rule, Sample, Tile, Unquantized, constraint
from hbtool.ops.table import emit_table, is_scalar


@dataclass(frozen=True)
class CompareAttributes:
    """Kind (`gt`, `ge`, `lt`, `le`, `eq`), dyadic ratios of the two scales, zero points."""

    kind: str = "gt"
    a_ratio: float = 1.0
    b_ratio: float = 1.0
    a_zero_point: int = 0
    b_zero_point: int = 0


_ONNX = {"gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual", "eq": "Equal"}


class Compare(IntegerOp):
    """y = 1 where (a - zp_a) * r_a `kind` (b - zp_b) * r_b, else 0, exactly; the ratios are dyadic."""

    name = "Compare"
    Attributes = CompareAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.compare(a.kind, m.widen(x[0], a.a_zero_point) * a.a_ratio, m.widen(x[1], a.b_zero_point) * a.b_ratio)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        left, right = x[0], x[1]
        assert left is not None and right is not None
        narrow = left.type is right.type is INT8
        terms = []
        for operand, zero_point, ratio in ((left, a.a_zero_point, a.a_ratio), (right, a.b_zero_point, a.b_ratio)):
            real = b.as_float(operand, zero_point)
            if not narrow:
                real = b.op("Cast", real, to=int(ir.DataType.DOUBLE))
            if ratio != 1.0:
                real = b.op("Mul", real, b.const(ratio, np.float32 if narrow else np.float64))
            terms.append(real)
        truth = b.op(_ONNX[a.kind], *terms)
        return [b.op("Where", truth, b.zero_point(INT8, 1), b.zero_point(INT8, 0))]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        return Tile(tuple(operand_box(s, box) for s in shapes if s is not None), a)


_KINDS = {"Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le", "Equal": "eq"}
_FUNCTIONS = {"gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal, "eq": np.equal}
_MIRRORED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge", "eq": "eq"}


class CompareFloat(Broadcasting):
    """ONNX Greater, GreaterOrEqual, Less, LessOrEqual, Equal of real numbers."""

    op_types = tuple(_KINDS)
    families = ("bayes", "bayes-e", "nash")
    manual = True
    elementwise = True
    rule_text = "exact comparison over a common denominator of the scales, int8 0 or 1; with a single number: a table"

    @constraint("bayes", "bayes-e")
    def one_broadcasts(self, node: ir.Node, limit: Any) -> bool | str:
        """at most one operand that broadcasts"""
        return one_broadcasts(node)

    def output_rule(self, node: ir.Node, index: int) -> Rule:  # noqa: D102
        return Unquantized()

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:  # noqa: D102
        assert x[0] is not None and x[1] is not None
        return np.asarray(_FUNCTIONS[_KINDS[node.op_type]](x[0], x[1]))

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        kind, out = _KINDS[node.op_type], node.outputs[0]
        for at, other_at, relation in ((1, 0, kind), (0, 1, _MIRRORED[kind])):
            array, other = graph.constant(node.inputs[at]), node.inputs[other_at]
            if array is not None and other is not None and is_scalar(array, other, node):
                self._with_number(b, other, relation, float(array.reshape(-1)[0]), out)
                return
        operands = [self._operand(b, node.inputs[i]) for i in (0, 1)]
        meanings = [q for v in operands if (q := meta.qparams(v)) is not None]
        ratios = (1.0, 1.0)
        if meanings[0].scale != meanings[1].scale:
            widest = max((q.type for q in meanings), key=lambda t: t.bits)
            a_ratio, b_ratio = dyadic_ratios([1.0, meanings[1].scale / meanings[0].scale], widest)
            ratios = a_ratio, b_ratio
        attributes = CompareAttributes(kind, *ratios, *(q.zero_point for q in meanings))
        b.emit(Compare, operands, TRUTH, graph.static_shape(out), attributes, represents=out)

    @staticmethod
    def _with_number(b: IntegerBuilder, x: ir.Value, relation: str, number: float, out: ir.Value) -> None:
        def truth(v: np.ndarray) -> np.ndarray:
            return np.asarray(_FUNCTIONS[relation](v, number), np.float64)

        emit_table(b, b.x(x), truth, TRUTH, (TRUTH.type.min, TRUTH.type.max), out)

    @staticmethod
    def _operand(b: IntegerBuilder, value: ir.Value | None) -> ir.Value:
        assert value is not None
        array = graph.constant(value)
        if array is None:
            return b.x(value)
        # A constant costs no time: where the family has int16 it is as exact as that.
        q = qtype.symmetric(qtype.magnitude(array), INT8 if b.family == "bernoulli2" else INT16)
        return b.const(qtype.quantize(array, q), f"constant_{value.name}", q)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        grid = np.arange(-60, 60, dtype=np.float32).reshape(2, 3, 4, 5) / 10
        other = np.roll(grid, 7, axis=2) * 2
        for op_type in self.op_types:
            yield Sample(f"{op_type} of two", op_type, (grid, other))
        yield Sample("with a number", "Greater", (grid,), {1: np.float32(0.03)})
        yield Sample("number first", "Less", (grid,), {0: np.float32(-1.23)})
        yield Sample("broadcast", "GreaterOrEqual", (grid, other[:, :, :1, :1].copy()))
        yield Sample("tensor constant", "LessOrEqual", (grid,), {1: other[:1]})
        yield Sample("with itself shifted by one step", "Equal", (grid, grid + np.float32(0.1) * (grid > 0)))
