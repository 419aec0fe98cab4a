"""Transpose: the same elements with permuted axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from hbtool.ops.op import Box, IntegerOp, Sample, Tile


@dataclass(frozen=True)
class TransposeAttributes:
    """Output axis i is input axis perm[i]."""

    perm: tuple[int, ...] = ()


class Transpose(IntegerOp):
    """y[i_0, ...] = x with axes permuted; the scale does not change."""

    name = "Transpose"
    Attributes = TransposeAttributes
    moves = True

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.transpose(x[0], a.perm)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None
        return [b.op("Transpose", b.value(operand), perm=a.perm)]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        source = [(0, 0)] * len(box)
        for output_axis, input_axis in enumerate(a.perm):
            source[input_axis] = box[output_axis]
        return Tile((tuple(source),), a)


class TransposeFloat(Limited):
    """ONNX Transpose."""

    op_types = ("Transpose",)
    families = ("bayes", "bayes-e", "nash")
    passive = True
    free_at_tail = True
    rule_text = "addresses only"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        result = b.result(node)
        shape = graph.static_shape(node.outputs[0])
        perm = graph.attribute(node, "perm") or tuple(reversed(range(len(shape))))
        if result.raw_accumulator:
            # The accumulator behind it keeps its scales, one per channel; the channels have another place now.
            source, q = b.x(node.inputs[0]), b.q(node.inputs[0])
            q = q if q.axis is None else replace(q, axis=perm.index(q.axis))
        else:
            source, q = requantized(b, b.x(node.inputs[0]), result.q), result.q
        b.emit(Transpose, [source], q, shape, TransposeAttributes(perm), represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(13).standard_normal((1, 4, 3, 5)).astype(np.float32)
        yield Sample("NCHW to NHWC", "Transpose", (x,), attributes={"perm": (0, 2, 3, 1)})
        yield Sample("default", "Transpose", (x,))
