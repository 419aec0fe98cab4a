"""Concat: a copy once all inputs have the output's scale."""

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
from hbtool.ops.op import Box, IntegerOp, Sample, Tile, constraint


@dataclass(frozen=True)
class ConcatAttributes:
    """The axis that is joined."""

    axis: int = 1


class Concat(IntegerOp):
    """The operands one after another along an axis; all have one scale."""

    name = "Concat"
    Attributes = ConcatAttributes
    moves = True

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.concat([v for v in x if v is not None], a.axis)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        return [b.op("Concat", *(b.value(o) for o in x if o is not None), axis=a.axis)]

    def places(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...]
    ) -> tuple[Box, ...] | None:
        boxes, first = [], 0
        for shape in shapes:
            if shape is None:
                return None
            sides = [(0, n) for n in shape]
            sides[a.axis] = (first, first + shape[a.axis])
            first += shape[a.axis]
            boxes.append(tuple(sides))
        return tuple(boxes)

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile | None:
        places = self.places(a, shapes, out)
        if places is None:
            return None
        boxes = []
        for place in places:
            first, last = place[a.axis]
            low, high = max(box[a.axis][0], first), min(box[a.axis][1], last)
            # An operand outside the box gives no elements.
            along = (low - first, high - first) if low < high else (0, 0)
            boxes.append(tuple(along if i == a.axis else b for i, b in enumerate(box)))
        return Tile(tuple(boxes), a)


class ConcatFloat(Limited):
    """ONNX Concat."""

    op_types = ("Concat",)
    passive = True
    unifies_inputs = True
    rule_text = "inputs requantized to the output's scale where they have another, then copied"

    @constraint()
    def not_the_batch(self, node: ir.Node, limit: Any) -> bool | str:
        """an axis other than the batch"""
        rank = len(graph.static_shape(node.outputs[0]))
        axis = graph.attribute(node, "axis", 0) % rank
        return axis != 0 or rank < 3 or "the batch is joined"

    @constraint(bernoulli2=2048)
    def channels(self, node: ir.Node, limit: int) -> bool | str:
        """at most {limit} channels"""
        count = graph.static_shape(node.outputs[0])[1]
        return count <= limit or f"there are {count}"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        result = b.result(node)
        shape = graph.static_shape(node.outputs[0])
        parts = [
            requantized(b, b.constant_operand(v) if graph.constant(v) is not None else b.x(v), result.q)
            for v in node.inputs
            if v is not None
        ]
        axis = graph.attribute(node, "axis", 0) % len(shape)
        b.emit(Concat, parts, result.q, shape, ConcatAttributes(axis), represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(11)
        parts = tuple((k + 1) * rng.standard_normal((1, k + 1, 3, 4)).astype(np.float32) for k in range(3))
        yield Sample("three scales", "Concat", parts, attributes={"axis": 1})
        yield Sample("last axis", "Concat", (parts[1], parts[1][..., :2].copy()), attributes={"axis": -1})
