"""Largest and smallest value over axes: integers are ordered as the real numbers they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import IntType
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, FloatOp, IntegerOp, Rule, SameAs, Sample, Tile, Work, constraint
from hbtool.ops.reduce_mean import reduction_axes


@dataclass(frozen=True)
class ExtremeAttributes:
    """`max` or `min`, and the axes (not negative)."""

    kind: str = "max"
    axes: tuple[int, ...] = ()
    keepdims: int = 1


class ReduceExtreme(IntegerOp):
    """y = max (or min) of x over axes; scale and zero point stay."""

    name = "ReduceExtreme"
    Attributes = ExtremeAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.reduce(x[0], a.kind, a.axes, bool(a.keepdims))

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None
        op_type = "ReduceMax" if a.kind == "max" else "ReduceMin"
        return [b.op(op_type, b.value(operand), b.const(a.axes, np.int64), keepdims=a.keepdims)]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        x = shapes[0]
        assert x is not None
        kept = iter(box)
        boxes: list[tuple[int, int]] = []
        for axis, size in enumerate(x):
            if axis in a.axes:
                boxes.append((0, size))
                if a.keepdims:
                    next(kept)
            else:
                boxes.append(next(kept))
        return Tile((tuple(boxes),), a)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        x = shapes[0]
        assert x is not None
        return Work("vector", vector_ops=graph.elements(x), bits=types[0].bits)


class ReduceExtremeFloat(FloatOp):
    """ONNX ReduceMax and ReduceMin over constant axes."""

    op_types = ("ReduceMax", "ReduceMin")
    families = ("bayes", "bayes-e", "nash")
    rule_text = "compares integers; the output means what the input means"

    @constraint()
    def constant_axes(self, node: ir.Node, limit: Any) -> bool | str:
        """constant axes"""
        axes = graph.input_at(node, 1)
        return axes is None or graph.constant(axes) is not None or "they are computed"

    def output_rule(self, node: ir.Node, index: int) -> Rule:  # noqa: D102
        return SameAs(0)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x, out = node.inputs[0], node.outputs[0]
        assert x is not None
        kind = "max" if node.op_type == "ReduceMax" else "min"
        attributes = ExtremeAttributes(kind, reduction_axes(node), graph.attribute(node, "keepdims", 1))
        b.emit(ReduceExtreme, [b.x(x)], b.q(x), graph.static_shape(out), attributes, represents=out)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(12).standard_normal((2, 3, 4, 5)).astype(np.float32)
        yield Sample("max over channels", "ReduceMax", (x,), {1: np.array([1])}, {"keepdims": 1})
        yield Sample("max over last, dropped", "ReduceMax", (x,), {1: np.array([-1])}, {"keepdims": 0})
        yield Sample("min over H, W", "ReduceMin", (x - 2,), {1: np.array([2, 3])}, {"keepdims": 1})
