"""Relu, Relu6 and Clip: free inside the operator before them, otherwise a clamp of integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT32, IntType
from hbtool.ops.boundary import requantized
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, FloatOp, IntegerOp, Rule, SameAs, Sample, Tile, constraint


@dataclass(frozen=True)
class ClampAttributes:
    """Smallest and largest integer."""

    low: int = INT32.min
    high: int = INT32.max


class Clamp(IntegerOp):
    """min(max(x, low), high) on integers; the scale does not change."""

    name = "Clamp"
    Attributes = ClampAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.clamp(x[0], a.low, a.high)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None
        type_ = types[0]
        return [b.clamp(b.value(operand), type_, max(a.low, type_.min), min(a.high, type_.max))]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        return Tile((box,), a)


class ClampFloat(FloatOp):
    """ONNX Relu and Clip with constant bounds."""

    op_types = ("Relu", "Clip")
    elementwise = True
    rule_text = "inside the operator before it, at no cost; alone: integers clamped, scale unchanged"

    @constraint()
    def constant_bounds(self, node: ir.Node, limit: Any) -> bool | str:
        """bounds that are constants"""
        return all(v is None or graph.constant(v) is not None for v in node.inputs[1:]) or "they are computed"

    def output_rule(self, node: ir.Node, index: int) -> Rule:  # noqa: D102
        return SameAs(0)

    def clamp(self, node: ir.Node) -> tuple[float, float] | None:  # noqa: D102
        if node.op_type == "Relu":
            return 0.0, np.inf
        if any(v is not None and graph.constant(v) is None for v in node.inputs[1:]):
            return None
        low, high = graph.constant(graph.input_at(node, 1)), graph.constant(graph.input_at(node, 2))
        return (
            -np.inf if low is None else float(low.reshape(-1)[0]),
            np.inf if high is None else float(high.reshape(-1)[0]),
        )

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:  # noqa: D102
        assert x[0] is not None
        if node.op_type == "Relu":
            return np.maximum(x[0], 0.0)
        low, high = (*x, None, None)[1:3]
        return np.clip(x[0], -np.inf if low is None else low, np.inf if high is None else high)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        bounds = self.clamp(node)
        assert bounds is not None
        result = b.result(node)
        low, high = b.clamp_bounds(result.q, *bounds)
        source = requantized(b, b.x(x), result.q) if b.q(x).axis is None else b.x(x)
        shape = graph.static_shape(node.outputs[0])
        b.emit(Clamp, [source], result.q, shape, ClampAttributes(low, high), represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.linspace(-9, 9, 120, dtype=np.float32).reshape(2, 3, 4, 5)
        yield Sample("Relu", "Relu", (x,))
        yield Sample("Relu6", "Clip", (x,), {1: np.float32(0), 2: np.float32(6)})
        yield Sample("Clip below", "Clip", (x,), {1: np.float32(-1.5)})
