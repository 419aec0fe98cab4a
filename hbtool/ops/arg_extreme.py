"""ArgMax, ArgMin and TopK: integers are ordered as the real numbers they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT32, IntType
from hbtool.ops.boundary import INDEX, requantized
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand, encoded_type
from hbtool.ops.op import FAMILIES, Box, Family, IntegerOp, Rule, SameAs, Sample, Tile, Unquantized, constraint
from hbtool.target.job import Work


@dataclass(frozen=True)
class ArgExtremeAttributes:
    """`max` or `min`, the axis (not negative), whether it stays with size 1, which of equals wins."""

    kind: str = "max"
    axis: int = 1
    keepdims: int = 1
    last: int = 0


class ArgExtreme(IntegerOp):
    """Index of the largest (smallest) integer along an axis, int32; of equals the first, or the last."""

    name = "ArgExtreme"
    Attributes = ArgExtremeAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.narrow(m.argreduce(x[0], a.kind, a.axis, bool(a.keepdims), bool(a.last)), INT32)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None
        op_type = "ArgMax" if a.kind == "max" else "ArgMin"
        index = b.op(op_type, b.value(operand), axis=a.axis, keepdims=a.keepdims, select_last_index=a.last)
        return [b.op("Cast", index, to=int(ir.DataType.INT32))]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        x = shapes[0]
        assert x is not None
        kept = box[: a.axis] + box[a.axis + bool(a.keepdims) :]
        return Tile(((*kept[: a.axis], (0, x[a.axis]), *kept[a.axis :]),), a)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        x = shapes[0]
        assert x is not None
        return Work("vector", vector_ops=graph.elements(x), bits=types[0].bits)


class ArgExtremeFloat(Limited):
    """ONNX ArgMax and ArgMin."""

    op_types = ("ArgMax", "ArgMin")
    passive = True
    rule_text = "compares integers; the index leaves as int64"

    def families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        return FAMILIES if op_type == "ArgMax" else FAMILIES[1:]

    @constraint("bernoulli2", "bayes", "bayes-e")
    def channels(self, node: ir.Node, limit: Any) -> bool | str:
        """a tensor of rank 4 and its channel axis, axis 1"""
        x = node.inputs[0]
        assert x is not None
        rank, axis = len(graph.static_shape(x)), graph.attribute(node, "axis", 0)
        return (rank == 4 and axis % rank == 1) or f"the rank is {rank} and the axis {axis}"

    @constraint(bernoulli2=64, bayes=64, bayes_e=8191, nash=32767)
    def axis_size(self, node: ir.Node, limit: int) -> bool | str:
        """at most {limit} elements along the axis"""
        x = node.inputs[0]
        assert x is not None
        size = graph.static_shape(x)[graph.attribute(node, "axis", 0)]
        return size <= limit or f"there are {size}"

    def output_rule(self, node: ir.Node, index: int) -> Rule:  # noqa: D102
        return Unquantized()

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x, out = node.inputs[0], node.outputs[0]
        assert x is not None
        attributes = ArgExtremeAttributes(
            "max" if node.op_type == "ArgMax" else "min",
            graph.attribute(node, "axis", 0) % len(graph.static_shape(x)),
            graph.attribute(node, "keepdims", 1),
            graph.attribute(node, "select_last_index", 0),
        )
        b.emit(ArgExtreme, [b.x(x)], INDEX, graph.static_shape(out), attributes, represents=out)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(25)
        x = rng.permutation(120).astype(np.float32).reshape(1, 6, 4, 5) - 60
        ties = np.round(rng.standard_normal((1, 6, 4, 5))).astype(np.float32)
        yield Sample("classes", "ArgMax", (x,), attributes={"axis": 1})
        yield Sample("dropped axis", "ArgMax", (x,), attributes={"axis": -3, "keepdims": 0})
        yield Sample("first of equals", "ArgMin", (ties,), attributes={"axis": 1})
        yield Sample("last of equals", "ArgMax", (ties,), attributes={"axis": 1, "select_last_index": 1})


@dataclass(frozen=True)
class TopAttributes:
    """How many, along which axis (not negative), largest or smallest."""

    count: int = 1
    axis: int = 0
    largest: int = 1


class Top(IntegerOp):
    """The largest (smallest) elements along an axis in order, and their indices (int32); of equals the first."""

    name = "Top"
    Attributes = TopAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> tuple[Array, ...]:  # noqa: D102
        values, order = m.top(x[0], a.count, a.axis, bool(a.largest))
        return values, m.narrow(order, INT32)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None and operand.type is not None
        source = b.value(operand)
        if operand.type is INT8:
            # onnxruntime's uint8 kernel is missing in older versions; float32 holds the integers.
            source = b.op("Cast", source, to=int(ir.DataType.FLOAT))
        count = b.const([a.count], np.int64)
        values, order = b.ops("TopK", source, count, outputs=2, axis=a.axis, largest=a.largest, sorted=1)
        if operand.type is INT8:
            values = b.op("Cast", values, to=int(encoded_type(INT8)))
        return [values, b.op("Cast", order, to=int(ir.DataType.INT32))]

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        x = shapes[0]
        assert x is not None
        # A partial sort: one comparison per element and kept place, as bits of the place.
        return Work("vector", vector_ops=graph.elements(x) * max(a.count.bit_length(), 1), bits=types[0].bits)


class TopKFloat(Limited):
    """ONNX TopK, sorted, with a constant count."""

    op_types = ("TopK",)
    families = ("bayes", "bayes-e", "nash")
    passive = True
    rule_text = "sorts integers, scale unchanged; the indices leave as int64"

    @constraint()
    def constant_count(self, node: ir.Node, limit: Any) -> bool | str:
        """a count that is a constant, and sorted results"""
        if graph.constant(node.inputs[1]) is None:
            return "the count is computed"
        return bool(graph.attribute(node, "sorted", 1)) or "sorted is 0"

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    def output_rule(self, node: ir.Node, index: int) -> Rule:  # noqa: D102
        return SameAs(0) if index == 0 else Unquantized()

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        assert x is not None
        result, out = b.result(node), graph.static_shape(node.outputs[0])
        axis = graph.attribute(node, "axis", -1) % len(out)
        attributes = TopAttributes(out[axis], axis, graph.attribute(node, "largest", 1))
        source = requantized(b, b.x(x), result.q)
        outputs = [(result.q, out, node.outputs[0]), (INDEX, out, node.outputs[1])]
        b.emit_many(Top, [source], outputs, attributes)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(26)
        x = rng.permutation(120).astype(np.float32).reshape(1, 6, 4, 5) - 60
        ties = np.round(2 * rng.standard_normal((1, 3, 40))).astype(np.float32)
        yield Sample("largest", "TopK", (x,), {1: np.array([3])}, {"axis": 1}, outputs=2)
        yield Sample("smallest, last axis", "TopK", (x,), {1: np.array([2])}, {"largest": 0}, outputs=2)
        yield Sample("ties", "TopK", (ties,), {1: np.array([40])}, outputs=2)
