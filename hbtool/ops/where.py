"""Where: one of two tensors, element by element; the condition is int8 0 or 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics import qtype
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, IntType
from hbtool.ops.boundary import TRUTH, entered_bool, requantized
from hbtool.ops.broadcast import operand_box
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import FAMILIES, Box, Family, IntegerOp, Sample, Tile


class Where(IntegerOp):
    """y = a where the condition is not 0, else b; a and b have the output's scale; broadcast."""

    name = "Where"

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.where(x[0], x[1], x[2])

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        condition, left, right = (o for o in x if o is not None)
        if condition.array is not None:
            truth = b.const(condition.array != 0)
        else:
            truth = b.op("Greater", b.value(condition), b.zero_point(INT8, 0))
        return [b.op("Where", truth, b.value(left), b.value(right))]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        return Tile(tuple(operand_box(s, box) for s in shapes if s is not None), a)


class WhereFloat(Limited):
    """ONNX Where with a condition from the BPU, from the CPU, or constant."""

    op_types = ("Where",)
    families = ("nash",)
    elementwise = True
    rule_text = "both tensors requantized to the output's scale, then selected"

    def trained_families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        return FAMILIES[1:]

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return tuple(i for i in (1, 2) if graph.constant(node.inputs[i]) is None)

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:  # noqa: D102
        assert x[0] is not None and x[1] is not None and x[2] is not None
        return np.where(x[0] != 0, x[1], x[2])

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        result = b.result(node)
        condition = node.inputs[0]
        assert condition is not None
        array = graph.constant(condition)
        truth = b.const(array.astype(np.int8), "condition", TRUTH) if array is not None else entered_bool(b, condition)
        operands = [truth]
        for value in node.inputs[1:]:
            assert value is not None
            constant = graph.constant(value)
            if constant is None:
                operands.append(requantized(b, b.x(value), result.q))
            else:
                operands.append(b.const(qtype.quantize(constant, result.q), f"constant_{value.name}", result.q))
        b.emit(Where, operands, result.q, graph.static_shape(node.outputs[0]), represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(24)
        x, y = (rng.standard_normal((2, 3, 4, 5)).astype(np.float32) for _ in range(2))
        mask = rng.standard_normal((2, 1, 4, 5)) > 0
        yield Sample("constant condition", "Where", (x, 2 * y), {0: mask}, steps=1.5)
        yield Sample("computed condition", "Where", (mask, x, 2 * y), steps=1.5)
        yield Sample("masked with a number", "Where", (mask, x), {2: np.float32(-3)}, steps=1.5)
