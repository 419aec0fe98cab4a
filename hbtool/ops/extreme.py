"""Elementwise maximum and minimum: operands brought to the output's scale, then integers are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics import qtype
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, IntType
from hbtool.ops.boundary import requantized
from hbtool.ops.broadcast import operand_box
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Broadcasting, one_broadcasts
from hbtool.ops.onnx_builder import OnnxBuilder, Operand, encoded_type
from hbtool.ops.op import Box, IntegerOp, Sample, Tile, constraint


@dataclass(frozen=True)
class ElementExtremeAttributes:
    """`max` or `min`."""

    kind: str = "max"


class ElementExtreme(IntegerOp):
    """y = max (or min) of the operands, which have one scale; broadcast."""

    name = "ElementExtreme"
    Attributes = ElementExtremeAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return reduce(m.maximum if a.kind == "max" else m.minimum, x)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        values = [b.value(o) for o in x if o is not None]
        if types[0] is not INT8:
            return [b.op(a.kind.capitalize(), *values)]
        # Not every supported onnxruntime has a Max of bytes (1.23, the last for Python 3.10, has none).
        wide = [b.op("Cast", v, to=int(ir.DataType.INT32)) for v in values]
        return [b.op("Cast", b.op(a.kind.capitalize(), *wide), to=int(encoded_type(INT8)))]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        return Tile(tuple(operand_box(s, box) for s in shapes if s is not None), a)


class _ElementExtremeFloat(Broadcasting):
    """Max and Min of one or more tensors."""

    families = ("bayes", "bayes-e", "nash")
    elementwise = True
    rule_text = "operands requantized to the output's scale, integers compared"
    kind: ClassVar[str]

    @constraint("bayes")
    def one_broadcasts(self, node: ir.Node, limit: Any) -> bool | str:
        """at most one operand that broadcasts"""
        return one_broadcasts(node)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:
        result = b.result(node)
        operands = []
        for value in node.inputs:
            assert value is not None
            array = graph.constant(value)
            if array is None:
                operands.append(requantized(b, b.x(value), result.q))
            else:
                operands.append(b.const(qtype.quantize(array, result.q), f"constant_{value.name}", result.q))
        shape = graph.static_shape(node.outputs[0])
        attributes = ElementExtremeAttributes(self.kind)
        b.emit(ElementExtreme, operands, result.q, shape, attributes, represents=result.value)

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:
        return reduce(np.maximum if self.kind == "max" else np.minimum, [v for v in x if v is not None])

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(22)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        op = self.op_types[0]
        yield Sample("same shape", op, (normal(1, 4, 5, 6), 2 * normal(1, 4, 5, 6)), steps=1.5)
        yield Sample("three, broadcast", op, (normal(1, 4, 5, 6), normal(1, 4, 1, 1), normal(5, 6)), steps=1.5)
        yield Sample("with a constant", op, (normal(2, 3, 7),), {1: np.float32(0.25)}, steps=1.5)
        yield Sample("only one", op, (normal(2, 3, 7),), steps=1.0)


class MaxFloat(_ElementExtremeFloat):
    """ONNX Max."""

    op_types = ("Max",)
    kind = "max"


class MinFloat(_ElementExtremeFloat):
    """ONNX Min."""

    op_types = ("Min",)
    manual = True
    kind = "min"
