"""Functions of one int16 variable: a piecewise-linear table (see `numerics.piecewise` for arithmetic and bound)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics import piecewise
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT16, IntType
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Tile
from hbtool.target.job import Work


class SegmentTable(IntegerOp):
    """y = round_half_even of the straight line between the two entries around x; int16 in, int8 or int16 out.

    Operands: x, blocks int32 [256, 2] (first entry, log2 of the distance of entries), entries [K] of the output's type.
    """

    name = "SegmentTable"
    parameters = (1, 2)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.segment_table(x[0], x[1], x[2])

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand, blocks, entries = (o for o in x if o is not None)
        # onnxruntime has no interpolation: one entry per integer is the same function in one lookup.
        full = piecewise.expand(blocks.constant(), entries.constant())
        return [b.table(b.value(operand), operand.shape, full, INT16, types[0])]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        return Tile((box, None, None), a)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        # Two lookups (block, entry) per element.
        return Work("vector", vector_ops=2 * graph.elements(out), bits=16)
