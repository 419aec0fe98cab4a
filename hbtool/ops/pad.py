"""Pad: constant, edge, reflect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics import qtype
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import IntType
from hbtool.ops.boundary import requantized
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.onnx_builder import OnnxBuilder, Operand, encode
from hbtool.ops.op import Box, FloatOp, IntegerOp, Sample, Tile, constraint


@dataclass(frozen=True)
class PadAttributes:
    """Elements before and after every axis, and the integer they hold."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    value: int = 0


class Pad(IntegerOp):
    """x with a border of one integer; the scale does not change."""

    name = "Pad"
    Attributes = PadAttributes
    moves = True

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.pad(x[0], list(zip(a.before, a.after, strict=True)), a.value)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None
        pads = b.const([*a.before, *a.after], np.int64)
        return [b.op("Pad", b.value(operand), pads, b.const(encode(np.asarray(a.value), types[0])))]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile | None:
        x = shapes[0]
        assert x is not None
        source, before, after = [], [], []
        for (low, high), size, first in zip(box, x, a.before, strict=True):
            start, stop = min(max(low - first, 0), size), min(max(high - first, 0), size)
            source.append((start, stop))
            # Elements of the box in front of and behind the part that comes from x.
            before.append(min(max(first - low, 0), high - low))
            after.append(high - low - before[-1] - (stop - start))
        return Tile((tuple(source),), PadAttributes(tuple(before), tuple(after), a.value))


class PadFloat(FloatOp):
    """ONNX Pad with constant amounts, mode constant."""

    op_types = ("Pad",)
    passive = True
    rule_text = "a border of the integer that stands for the constant"

    @constraint()
    def constant_amounts(self, node: ir.Node, limit: Any) -> bool | str:
        """constant, non-negative amounts and mode constant"""
        if graph.attribute(node, "mode", "constant") != "constant":
            return f"the mode is {graph.attribute(node, 'mode')}"
        arrays = [graph.constant(v) for v in node.inputs[1:] if v is not None]
        if any(a is None for a in arrays):
            return "they are computed"
        return bool(np.all(arrays[0] >= 0)) or "some are negative"  # type: ignore[operator]

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        assert x is not None
        result = b.result(node)
        rank = len(graph.static_shape(x))
        amounts = graph.constant(node.inputs[1])
        fill = graph.constant(graph.input_at(node, 2))
        axes = graph.constant(graph.input_at(node, 3))
        assert amounts is not None
        axis_list = range(rank) if axes is None else [int(i) % rank for i in axes]
        before, after = [0] * rank, [0] * rank
        for k, axis in enumerate(axis_list):
            before[axis], after[axis] = int(amounts[k]), int(amounts[len(amounts) // 2 + k])
        real = 0.0 if fill is None or fill.size == 0 else float(fill.reshape(-1)[0])
        value = int(qtype.quantize(np.asarray(real), result.q))
        source = requantized(b, b.x(x), result.q)
        attributes = PadAttributes(tuple(before), tuple(after), value)
        b.emit(Pad, [source], result.q, graph.static_shape(node.outputs[0]), attributes, represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(16).standard_normal((1, 3, 4, 5)).astype(np.float32)
        yield Sample("zeros", "Pad", (x,), {1: np.array([0, 0, 1, 2, 0, 0, 0, 3])})
        yield Sample("a value", "Pad", (x,), {1: np.array([0, 1, 1, 0, 0, 0, 1, 1]), 2: np.float32(0.5)})
