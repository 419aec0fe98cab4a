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
from hbtool.ops.boundary import requantized
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import FAMILIES, Box, Family, IntegerOp, Sample, Tile, constraint
from hbtool.ops.reduce_mean import Reduction, reduced_box, reduction_axes
from hbtool.target.job import Work


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
        if not a.axes:  # ONNX takes an empty list of axes for all of them
            return [b.op("Identity", b.value(operand))]
        op_type = "ReduceMax" if a.kind == "max" else "ReduceMin"
        return [b.op(op_type, b.value(operand), b.const(a.axes, np.int64), keepdims=a.keepdims)]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        x = shapes[0]
        assert x is not None
        return Tile((reduced_box(x, a.axes, bool(a.keepdims), box),), a)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        x = shapes[0]
        assert x is not None
        return Work("vector", vector_ops=graph.elements(x), bits=types[0].bits)


class ReduceExtremeFloat(Reduction):
    """ONNX ReduceMax and ReduceMin over constant axes, and GlobalMaxPool."""

    op_types = ("ReduceMax", "ReduceMin", "GlobalMaxPool")
    passive = True
    rule_text = "compares integers, scale unchanged"

    def families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        return {"ReduceMax": FAMILIES[1:], "ReduceMin": ("nash",), "GlobalMaxPool": FAMILIES}[op_type]

    def trained_families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        return FAMILIES if op_type == "GlobalMaxPool" else FAMILIES[1:]

    @constraint(bernoulli2=1024, bayes=256, bayes_e=256)
    def pooled_size(self, node: ir.Node, limit: int) -> bool | str:
        """for GlobalMaxPool: height and width of at most {limit}"""
        x = node.inputs[0]
        if node.op_type != "GlobalMaxPool" or x is None:
            return True
        sizes = graph.static_shape(x)[2:]
        return max(sizes) <= limit or f"one is {max(sizes)}"

    @constraint(bayes=8192, bayes_e=8192)
    def axis_size(self, node: ir.Node, limit: int) -> bool | str:
        """for ReduceMax: a reduced axis of at most {limit}"""
        x = node.inputs[0]
        if node.op_type != "ReduceMax" or x is None:
            return True
        largest = max((graph.static_shape(x)[i] for i in reduction_axes(node)), default=1)
        return largest <= limit or f"it is {largest}"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        assert x is not None
        result = b.result(node)
        kind = "min" if node.op_type == "ReduceMin" else "max"
        keepdims = 1 if node.op_type == "GlobalMaxPool" else graph.attribute(node, "keepdims", 1)
        attributes = ExtremeAttributes(kind, reduction_axes(node), keepdims)
        source = requantized(b, b.x(x), result.q)
        shape = graph.static_shape(node.outputs[0])
        b.emit(ReduceExtreme, [source], result.q, shape, attributes, represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(12).standard_normal((2, 3, 4, 5)).astype(np.float32)
        yield Sample("max over channels", "ReduceMax", (x,), {1: np.array([1])}, {"keepdims": 1})
        yield Sample("global pool", "GlobalMaxPool", (x - 3,))
        yield Sample("max over last, dropped", "ReduceMax", (x,), {1: np.array([-1])}, {"keepdims": 0})
        yield Sample("min over H, W", "ReduceMin", (x - 2,), {1: np.array([2, 3])}, {"keepdims": 1})
