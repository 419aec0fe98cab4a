"""Pow with one constant exponent: a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.op import Sample, constraint
from hbtool.ops.table import is_scalar, lower_table


class PowFloat(Limited):
    """ONNX Pow with a scalar exponent."""

    op_types = ("Pow",)
    absorbs_clamp = True
    elementwise = True
    int16_tail = True
    rule_text = "a table, as every function of one variable"

    @constraint()
    def scalar_exponent(self, node: ir.Node, limit: Any) -> bool | str:
        """a base that is computed and an exponent that is one constant number"""
        base, exponent = node.inputs[0], graph.constant(node.inputs[1])
        if base is None or graph.constant(base) is not None:
            return "the base is a constant"
        return (exponent is not None and is_scalar(exponent, base, node)) or "it is computed, or a tensor"

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x, exponent = node.inputs[0], graph.constant(node.inputs[1])
        assert x is not None and exponent is not None
        value = float(exponent.reshape(-1)[0])
        lower_table(node, b, x, lambda v: np.power(v, value))

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:  # noqa: D102
        assert x[0] is not None and x[1] is not None
        return np.power(x[0], x[1])

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.linspace(-2, 2, 60, dtype=np.float32).reshape(1, 3, 4, 5)
        yield Sample("square", "Pow", (x,), {1: np.float32(2)}, steps=2.0)
        yield Sample("cube", "Pow", (x,), {1: np.array([3], np.float32)}, steps=2.5)
        yield Sample("root", "Pow", (x + 3,), {1: np.float32(0.5)}, steps=1.5)
        yield Sample("integer exponent", "Pow", (x,), {1: np.array(2, np.int64)}, steps=2.0)
