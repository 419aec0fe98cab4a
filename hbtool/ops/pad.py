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
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand, encode
from hbtool.ops.op import Box, IntegerOp, Sample, Tile, constraint
from hbtool.ops.take import emit_reshape, emit_take


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


class PadFloat(Limited):
    """ONNX Pad with constant amounts."""

    op_types = ("Pad",)
    passive = True
    rule_text = "constant: a border of the integer that stands for the value; edge, reflect, wrap: a selection"

    @constraint()
    def constant_amounts(self, node: ir.Node, limit: Any) -> bool | str:
        """amounts that are constants and not negative"""
        if any(v is not None and graph.constant(v) is None for v in node.inputs[1:]):
            return "they are computed"
        return all(min(pair) >= 0 for pair in _amounts(node)) or "some are negative"

    @constraint("bernoulli2", "bayes", "bayes-e")
    def constant_mode(self, node: ir.Node, limit: Any) -> bool | str:
        """mode constant"""
        mode = graph.attribute(node, "mode", "constant")
        return mode == "constant" or f"the mode is {mode}"

    @constraint("bernoulli2")
    def spatial_axes(self, node: ir.Node, limit: Any) -> bool | str:
        """a border of height and width only"""
        return all(pair == (0, 0) for pair in _amounts(node)[:2]) or "other axes grow"

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        assert x is not None
        result, amounts = b.result(node), _amounts(node)
        source = requantized(b, b.x(x), result.q)
        out = graph.static_shape(node.outputs[0])
        mode = graph.attribute(node, "mode", "constant")
        if mode == "constant":
            fill = graph.constant(graph.input_at(node, 2))
            real = 0.0 if fill is None or fill.size == 0 else float(fill.reshape(-1)[0])
            value = int(qtype.quantize(np.asarray(real), result.q))
            before, after = (tuple(side) for side in zip(*amounts, strict=True))
            b.emit(Pad, [source], result.q, out, PadAttributes(before, after, value), represents=result.value)
            return
        for axis, (size, pair) in enumerate(zip(graph.static_shape(x), amounts, strict=True)):
            if pair != (0, 0):
                source = emit_take(b, source, np.pad(np.arange(size), pair, mode=mode), axis, result.q)
        emit_reshape(b, source, out, result.q, result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(16).standard_normal((1, 3, 4, 5)).astype(np.float32)
        yield Sample("zeros", "Pad", (x,), {1: np.array([0, 0, 1, 2, 0, 0, 0, 3])})
        yield Sample("a value", "Pad", (x,), {1: np.array([0, 1, 1, 0, 0, 0, 1, 1]), 2: np.float32(0.5)})
        some = {1: np.array([1, 2, 0, 3]), 3: np.array([2, -1])}
        for mode in ("edge", "reflect", "wrap"):
            yield Sample(f"{mode}, some axes", "Pad", (x,), some, {"mode": mode})


def _amounts(node: ir.Node) -> list[tuple[int, int]]:
    """(before, after) per axis; the amounts are constant."""
    x = node.inputs[0]
    amounts, axes = graph.constant(node.inputs[1]), graph.constant(graph.input_at(node, 3))
    assert x is not None and amounts is not None
    rank = len(graph.static_shape(x))
    pairs = [(0, 0)] * rank
    for k, axis in enumerate(range(rank) if axes is None else axes.reshape(-1)):
        pairs[int(axis) % rank] = (int(amounts[k]), int(amounts[len(amounts) // 2 + k]))
    return pairs
