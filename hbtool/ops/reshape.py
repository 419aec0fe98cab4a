"""Operators that only change the shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import IntType
from hbtool.ops.boundary import requantized
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import IntegerOp, Sample, constraint


@dataclass(frozen=True)
class ReshapeAttributes:
    """The new shape, all sizes stated."""

    shape: tuple[int, ...] = ()


class Reshape(IntegerOp):
    """The same elements in row-major order under another shape."""

    name = "Reshape"
    Attributes = ReshapeAttributes
    moves = True

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.reshape(x[0], a.shape)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None
        return [b.reshape(b.value(operand), a.shape)]


class ReshapeFloat(Limited):
    """ONNX Reshape, Flatten, Squeeze, Unsqueeze, Identity and Dropout with known shapes."""

    op_types = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
    families = ("bayes", "bayes-e", "nash")
    passive = True
    rule_text = "addresses only"

    @constraint()
    def rank(self, node: ir.Node, limit: Any) -> bool | str:
        """a result of known shape and rank 1 to 10"""
        shape = graph.known_shape(node.outputs[0])
        return (shape is not None and 1 <= len(shape) <= 10) or f"the shape is {node.outputs[0].shape}"

    @constraint()
    def one_output(self, node: ir.Node, limit: Any) -> bool | str:
        """no mask output, and no training mode"""
        if graph.constant(graph.input_at(node, 2)) is not None and node.op_type == "Dropout":
            return not bool(graph.constant(node.inputs[2]).any()) or "training mode is on"  # type: ignore[union-attr]
        return len(node.outputs) == 1 or "the mask is asked for"

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        result = b.result(node)
        shape = graph.static_shape(node.outputs[0])
        source = requantized(b, b.x(node.inputs[0]), result.q)
        b.emit(Reshape, [source], result.q, shape, ReshapeAttributes(shape), represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(12).standard_normal((1, 4, 3, 5)).astype(np.float32)
        yield Sample("Reshape", "Reshape", (x,), {1: np.array([1, 12, 5])})
        yield Sample("Flatten", "Flatten", (x,), attributes={"axis": 2})
        yield Sample("Identity", "Identity", (x,))
        yield Sample("Dropout", "Dropout", (x,))
        yield Sample("Squeeze", "Squeeze", (x,), {1: np.array([0])})
        yield Sample("Unsqueeze", "Unsqueeze", (x,), {1: np.array([1])})
