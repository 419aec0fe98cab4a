"""GridSample: fixed-point coordinates from an int16 grid, integer interpolation weights, one rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT32, IntType, int_type
from hbtool.ops.boundary import requantized
from hbtool.ops.chain import Chain
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Rule, SameAs, Sample, Tile, constraint
from hbtool.target.job import Work

POSITION_BITS = 8
"""Coordinates count 2^-8 pixels, fewer where the grid reaches so far that float32 would not hold them."""


@dataclass(frozen=True)
class GridSampleAttributes:
    """Bits after the point, centre of the image in fixed point (x, y), mode, padding, type and zero point of x."""

    bits: int = POSITION_BITS
    centre: tuple[int, ...] = (0, 0)
    nearest: int = 0
    border: int = 0
    y_type: str = "int8"
    zero_point: int = 0


class GridSample(IntegerOp):
    """y = saturate(round_half_even(sum over the four neighbours of weight * (x - zp) / 2^(2 * bits)) + zp).

    Operands: x [N, C, H, W], grid int16 [N, H', W', 2], m float32 [2] (x, y).
    Position = round_half_even(float32(grid) * m) + centre, in 2^-bits pixels; weights are its low bits. Neighbours
    outside count 0 (zeros), or the position is clamped to the image (border). Nearest rounds the position half to even.
    """

    name = "GridSample"
    Attributes = GridSampleAttributes
    parameters = (2,)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        scaled = m.widen(m.requantize(m.widen(x[1]), x[2], INT32, 0))
        shape = tuple(int(n) for n in scaled.shape[:3])
        columns, rows = (
            m.reshape(m.slice(scaled, [*((0, n, 1) for n in shape), (i, i + 1, 1)]), shape) + a.centre[i]
            for i in (0, 1)
        )
        acc = m.sample(m.widen(x[0], a.zero_point), columns, rows, a.bits, bool(a.nearest), bool(a.border))
        return m.weighted_sum([(acc, 0, 2.0 ** (-2 * a.bits))], int_type(a.y_type), a.zero_point)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        data, grid, factor = (o for o in x if o is not None)
        batch, channels, height, width = data.shape
        points = graph.elements(grid.shape[1:3])
        scaled = b.op("Round", b.op("Mul", b.as_float(grid), b.value(factor)))
        position = b.op("Add", scaled, b.const(np.asarray(a.centre, np.float32)))
        one, last = float(1 << a.bits), np.asarray([width - 1, height - 1], np.float32)
        if a.border:
            # Min and Max broadcast, Clip takes single numbers.
            position = b.op("Min", b.op("Max", position, _f(b, 0.0)), b.const(last * one))
        low = b.op("Mul", position, _f(b, 1.0 / one))
        low = b.op("Round", low) if a.nearest else b.op("Floor", low)
        flat = b.reshape(
            b.op("Transpose", b.as_float(data, a.zero_point), perm=[0, 2, 3, 1]), (batch, height * width, channels)
        )
        if data.type is not INT8:
            flat = b.op("Cast", flat, to=int(ir.DataType.DOUBLE))
        real = np.float32 if data.type is INT8 else np.float64
        if a.nearest:
            total = self._corner(b, data, flat, low, None, real, points)
        else:
            upper = b.op("Sub", position, b.op("Mul", low, _f(b, one)))
            lower = b.op("Sub", _f(b, one), upper)
            terms = []
            for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
                weights = [_part(b, upper if d else lower, i) for i, d in enumerate((dx, dy))]
                corner = b.op("Add", low, b.const(np.asarray([dx, dy], np.float32)))
                terms.append(self._corner(b, data, flat, corner, b.op("Mul", *weights), real, points))
            total = b.op("Mul", b.op("Sum", *terms), b.const(1.0 / (one * one), real))
        image = b.op("Transpose", b.reshape(total, (batch, *grid.shape[1:3], channels)), perm=[0, 3, 1, 2])
        if data.type is not INT8:
            image = b.op("Cast", b.op("Round", image), to=int(ir.DataType.FLOAT))
        return [b.from_float(image, types[0], a.zero_point)]

    @staticmethod
    def _corner(
        b: OnnxBuilder, data: Operand, flat: ir.Value, corner: ir.Value, weight: ir.Value | None, real: Any, points: int
    ) -> ir.Value:
        """weight * x at pixel `corner` [N, H', W', 2], 0 outside: [N, H' * W', C]."""
        batch, _, height, width = data.shape
        last = np.asarray([width - 1, height - 1], np.float32)
        kept = b.op("Min", b.op("Max", corner, _f(b, 0.0)), b.const(last))
        inside = b.op("Cast", b.op("Equal", kept, corner), to=int(ir.DataType.FLOAT))
        mask = b.op("Mul", _part(b, inside, 0), _part(b, inside, 1))
        weight = mask if weight is None else b.op("Mul", weight, mask)
        place = b.op("Add", b.op("Mul", _part(b, kept, 1), _f(b, float(width))), _part(b, kept, 0))
        index = b.op("Cast", b.reshape(place, (batch, points, 1)), to=int(ir.DataType.INT64))
        picked = b.op("GatherND", flat, index, batch_dims=1)
        factor = b.reshape(weight, (batch, points, 1))
        if real is np.float64:
            factor = b.op("Cast", factor, to=int(ir.DataType.DOUBLE))
        return b.op("Mul", picked, factor)

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        x = shapes[0]
        assert x is not None
        # Which pixels an output reads is in the grid, not in the shapes: the whole image.
        return Tile(((box[0], box[1], (0, x[2]), (0, x[3])), (box[0], box[2], box[3], (0, 2)), None), a)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        return Work("vector", vector_ops=graph.elements(out) * (1 if a.nearest else 8), bits=types[0].bits)


def _f(b: OnnxBuilder, value: float) -> ir.Value:
    return b.const(value, np.float32)


def _part(b: OnnxBuilder, pair: ir.Value, index: int) -> ir.Value:
    """x or y of [..., 2]."""
    return b.op("Gather", pair, b.const(index, np.int64), axis=-1)


class GridSampleFloat(Limited):
    """ONNX GridSample of images."""

    op_types = ("GridSample",)
    families = ("bayes", "bayes-e", "nash")
    int16_inputs = (1,)
    rule_text = "int16 grid to positions in 2^-8 pixels, integer weights, one rounding; scale of the image unchanged"

    @constraint()
    def image(self, node: ir.Node, limit: Any) -> bool | str:
        """an image of rank 4 that is computed"""
        x = node.inputs[0]
        if x is None or graph.constant(x) is not None:
            return "the image is a constant"
        return len(graph.static_shape(x)) == 4 or f"the rank is {len(graph.static_shape(x))}"

    @constraint(bayes=1024, bayes_e=1024, nash=4096)
    def image_size(self, node: ir.Node, limit: int) -> bool | str:
        """height and width of at most {limit}"""
        largest = max(graph.static_shape(node.outputs[0])[2:] + graph.static_shape(node.inputs[0])[2:])  # type: ignore[arg-type]
        return largest <= limit or f"one is {largest}"

    @constraint(bayes=720 * 1024, bayes_e=512 * 512)
    def image_area(self, node: ir.Node, limit: int) -> bool | str:
        """an image of at most {limit} pixels"""
        area = graph.elements(graph.static_shape(node.inputs[0])[2:])  # type: ignore[arg-type]
        return area <= limit or f"there are {area}"

    @constraint()
    def mode(self, node: ir.Node, limit: Any) -> bool | str:
        """mode linear or nearest, padding zeros or border"""
        mode = graph.attribute(node, "mode", "linear")
        padding = graph.attribute(node, "padding_mode", "zeros")
        return (mode in ("linear", "bilinear", "nearest") and padding in ("zeros", "border")) or f"{mode}, {padding}"

    def output_rule(self, node: ir.Node, index: int) -> Rule:  # noqa: D102
        return SameAs(0)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x, grid_value = node.inputs[0], node.inputs[1]
        assert x is not None and grid_value is not None
        result, chain = b.result(node), Chain(b)
        array = graph.constant(grid_value)
        grid = b.x(grid_value) if array is None else chain.const(array, "grid")
        height, width = graph.static_shape(x)[2:]
        corners = 1 if graph.attribute(node, "align_corners", 0) else 0
        # -1 and 1 are the centres of the outer pixels, or the outer edges of the image.
        spans = [(width - corners) / 2, (height - corners) / 2]
        reach = chain.reach(grid) * max(spans) + max(width, height)
        bits = POSITION_BITS
        while bits > 1 and reach * 2**bits >= 2**23:
            bits -= 1
        scale = chain.scale(grid)
        factor = np.asarray([np.float32(scale * s * 2**bits) for s in spans], np.float32)
        attributes = GridSampleAttributes(
            bits,
            ((width - 1) << (bits - 1), (height - 1) << (bits - 1)),
            int(graph.attribute(node, "mode", "linear") == "nearest"),
            int(graph.attribute(node, "padding_mode", "zeros") == "border"),
            result.q.type.name,
            result.q.zero_point,
        )
        operands = [requantized(b, b.x(x), result.q), grid, b.const(factor, "multiplier")]
        shape = graph.static_shape(node.outputs[0])
        b.emit(GridSample, operands, result.q, shape, attributes, represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(35)
        x = rng.standard_normal((2, 3, 6, 8)).astype(np.float32)
        grid = rng.uniform(-1.3, 1.3, (2, 5, 4, 2)).astype(np.float32)
        for padding in ("zeros", "border"):
            for align in (0, 1):
                attributes = {"padding_mode": padding, "align_corners": align, "mode": "linear"}
                # A position off by 2^-9 pixels moves the value by that part of the difference of neighbours.
                yield Sample(f"linear, {padding}, align {align}", "GridSample", (x, grid), {}, attributes, steps=2.5)
        fixed = {"padding_mode": "border", "mode": "linear"}
        yield Sample("constant grid", "GridSample", (x,), {1: grid}, fixed, steps=2.5)
        # The centres of pixels: rounding cannot choose another neighbour.
        columns, rows = np.meshgrid(np.array([-3, 1, 4, 9]), np.array([0, 5, -1]))
        centres = np.stack([(2 * columns + 1) / 8 - 1, (2 * rows + 1) / 6 - 1], axis=-1)
        nearest = np.broadcast_to(centres, (2, 3, 4, 2)).astype(np.float32)
        yield Sample("nearest", "GridSample", (x, nearest.copy()), {}, {"mode": "nearest"})
