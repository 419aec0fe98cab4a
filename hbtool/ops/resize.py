"""Resize of height and width: nearest (a selection) and linear (two small integer matrix products)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, IntType, int_type
from hbtool.ops.boundary import requantized
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Sample, Tile, constraint
from hbtool.target.job import Work

WEIGHT_BITS = 8
"""Interpolation weights are integers over 2^8: 128 * 2^8 * 2^8 stays exact in float32."""


class SelectRows(IntegerOp):
    """y = x[..., rows, :][..., columns]: nearest-neighbour resize as two index lists (int64)."""

    name = "SelectRows"
    parameters = (1, 2)
    moves = True

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        rank = len(x[0].shape)  # type: ignore[union-attr]
        return m.take(m.take(x[0], x[1], rank - 2), x[2], rank - 1)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand, rows, columns = (o for o in x if o is not None)
        rank = len(operand.shape)
        y = b.value(operand)
        factors = [_whole_factor(i.constant(), n) for i, n in ((rows, operand.shape[-2]), (columns, operand.shape[-1]))]
        if rank == 4 and all(factors) and max(factors) > 1:
            # Whole factors: onnxruntime's Resize copies rows, twenty times faster than two Gathers.
            scales = b.const(np.asarray([1, 1, *factors], np.float32))
            where = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
            attributes: dict[str, Any] = {"mode": "nearest", **where}
            return [b.op("Resize", y, None, scales, **attributes)]
        for index, axis in ((rows, rank - 2), (columns, rank - 1)):
            if not np.array_equal(index.constant(), np.arange(operand.shape[axis])):
                y = b.op("Gather", y, b.const(index.constant()), axis=axis)
        return [b.op("Identity", y) if y is b.value(operand) else y]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile | None:
        x = shapes[0]
        assert x is not None
        # Which input rows an output row takes is in the index lists, not in the shapes: all of them.
        return Tile(((*box[:-2], (0, x[-2]), (0, x[-1])), (box[-2],), (box[-1],)), a)


def _whole_factor(index: np.ndarray, size: int) -> int:
    """k where the index repeats every one of `size` positions k times in order, else 0."""
    factor = len(index) // size
    return factor if np.array_equal(index, np.repeat(np.arange(size), factor)) else 0


@dataclass(frozen=True)
class InterpolateAttributes:
    """Type of the elements."""

    y_type: str = "int8"


class Interpolate(IntegerOp):
    """y = saturate(round_half_even((R x C^T) / 2^16)): R [H', H] and C [W', W] hold weights over 2^8.

    Every row of R and C sums to 2^8, so a zero point passes through unchanged.
    """

    name = "Interpolate"
    Attributes = InterpolateAttributes
    parameters = (1, 2)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        acc = m.matmul(m.matmul(x[1], x[0]), m.transpose(x[2], (1, 0)))
        return m.weighted_sum([(acc, 0, 2.0 ** (-2 * WEIGHT_BITS))], int_type(a.y_type), 0)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand, rows, columns = (o for o in x if o is not None)
        exact = operand.type is INT8  # in float32; wider elements need float64
        wide = np.float32 if exact else np.float64
        left_weights = rows.constant().astype(wide)
        right_weights = np.ldexp(columns.constant().astype(wide).T, -2 * WEIGHT_BITS).astype(wide)
        real = b.as_float(operand)
        if not exact:
            real = b.op("Cast", real, to=int(ir.DataType.DOUBLE))
        y = b.op("MatMul", b.op("MatMul", b.const(left_weights), real), b.const(right_weights))
        if not exact:
            y = b.op("Cast", b.op("Round", y), to=int(ir.DataType.FLOAT))
        return [b.from_float(y, types[0])]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile | None:
        x = shapes[0]
        assert x is not None
        # Which input rows an output row needs is in the weights, not in the shapes: all of them.
        plane = ((0, x[-2]), (0, x[-1]))
        return Tile(((*box[:-2], *plane), (box[-2], plane[0]), (box[-1], plane[1])), a)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        return Work("vector", vector_ops=4 * graph.elements(out), bits=types[0].bits)


class ResizeFloat(Limited):
    """ONNX Resize of the last two axes, nearest or linear."""

    op_types = ("Resize",)
    int8_only = ("bayes", "bayes-e")
    passive = True
    rule_text = "nearest: selection; linear: weights over 2^8, exact sum, one rounding; scale unchanged"

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    @constraint()
    def mode(self, node: ir.Node, limit: Any) -> bool | str:
        """mode nearest or linear, no antialiasing, a tensor of rank 4 that changes in height and width only"""
        mode = graph.attribute(node, "mode", "nearest")
        if mode not in ("nearest", "linear"):
            return f"the mode is {mode}"
        if graph.attribute(node, "antialias", 0):
            return "antialiasing is on"
        x, y = graph.known_shape(node.inputs[0]), graph.known_shape(node.outputs[0])  # type: ignore[arg-type]
        return (
            x is not None and y is not None and len(x) == 4 and x[:2] == y[:2]
        ) or "other axes change, or the rank is another"

    @constraint()
    def coordinates(self, node: ir.Node, limit: Any) -> bool | str:
        """sizes that are constants, and aspect ratio policy stretch"""
        if graph.attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            return "the policy keeps the aspect ratio"
        return all(v is None or graph.constant(v) is not None for v in node.inputs[1:]) or "they are computed"

    @constraint()
    def cropped_box(self, node: ir.Node, limit: Any) -> bool | str:
        """for tf_crop_and_resize: a box inside the image whose corners are pixels"""
        if graph.attribute(node, "coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize":
            return True
        shape = graph.static_shape(node.inputs[0])  # type: ignore[arg-type]
        corners = [_box(node, axis, shape[axis]) for axis in (2, 3)]
        whole = all(abs(v - round(v)) < 1e-3 for pair in corners for v in pair)
        inside = all(0 <= round(v) < shape[axis] for axis, pair in zip((2, 3), corners, strict=True) for v in pair)
        return (
            whole and inside
        ) or f"its corners are {corners[0][0]:g}, {corners[1][0]:g}, {corners[0][1]:g}, {corners[1][1]:g}"

    @constraint("bernoulli2", "bayes", "bayes-e")
    def nearest_factors(self, node: ir.Node, limit: Any) -> bool | str:
        """for nearest upscaling: factors that are powers of two, that of the height at most that of the width"""
        x = node.inputs[0]
        assert x is not None
        source, out = graph.static_shape(x), graph.static_shape(node.outputs[0])
        if graph.attribute(node, "mode", "nearest") != "nearest" or out[2] < source[2] or out[3] < source[3]:
            return True
        factors = [o / s for o, s in zip(out[2:], source[2:], strict=True)]
        whole = all(f.is_integer() and int(f).bit_count() == 1 for f in factors)
        return (whole and factors[0] <= factors[1]) or f"they are {factors[0]:g} and {factors[1]:g}"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        assert x is not None
        result = b.result(node)
        source, out = graph.static_shape(x), graph.static_shape(node.outputs[0])
        scales = graph.constant(graph.input_at(node, 2))
        operands = [requantized(b, b.x(x), result.q)]
        nearest = graph.attribute(node, "mode", "nearest") == "nearest"
        axes = graph.attribute(node, "axes") or range(len(source))
        stated = {} if scales is None else {int(a) % len(source): float(s) for a, s in zip(axes, scales, strict=False)}
        for axis, role in ((2, "rows"), (3, "columns")):
            given = stated.get(axis, out[axis] / source[axis])
            position = _positions(node, axis, source[axis], out[axis], given)
            table = _nearest(node, position, source[axis]) if nearest else _weights(position, source[axis])
            operands.append(b.const(table, role))
        if nearest:
            b.emit(SelectRows, operands, result.q, out, represents=result.value)
        else:
            attributes = InterpolateAttributes(result.q.type.name)
            b.emit(Interpolate, operands, result.q, out, attributes, represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(17).standard_normal((1, 3, 5, 6)).astype(np.float32)
        empty = np.zeros(0, np.float32)
        double = {1: empty, 2: np.array([1, 1, 2, 2], np.float32)}
        floor = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        yield Sample("nearest x2", "Resize", (x,), double, floor)
        yield Sample(
            "nearest half_pixel to 7x8",
            "Resize",
            (x,),
            {1: empty, 2: empty, 3: np.array([1, 3, 7, 8])},
            {"mode": "nearest"},
        )
        yield Sample("linear x2", "Resize", (x,), double, {"mode": "linear"}, steps=1.5)
        corners = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
        yield Sample(
            "linear align_corners to 9x11",
            "Resize",
            (x,),
            {1: empty, 2: empty, 3: np.array([1, 3, 9, 11])},
            corners,
            steps=2.0,
        )
        crop = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}
        region = np.array([0, 0, 0.25, 0.2, 1, 1, 1, 0.8], np.float32)
        sizes = {1: region, 2: empty, 3: np.array([1, 3, 6, 8])}
        yield Sample("linear crop to 6x8", "Resize", (x,), sizes, crop, steps=2.0)


def _box(node: ir.Node, axis: int, size: int) -> tuple[float, float]:
    """First and last pixel of the region of interest along an axis; the whole axis where none is given."""
    region = graph.constant(graph.input_at(node, 1))
    axes = [int(a) % 4 for a in graph.attribute(node, "axes") or range(4)]
    if region is None or region.size != 2 * len(axes) or axis not in axes:
        return 0.0, size - 1.0
    at = axes.index(axis)
    return float(region[at]) * (size - 1), float(region[at + len(axes)]) * (size - 1)


def _positions(node: ir.Node, axis: int, size: int, out: int, scale: float) -> np.ndarray:
    """Source coordinate of every output index, as ONNX Resize defines it."""
    mode = graph.attribute(node, "coordinate_transformation_mode", "half_pixel")
    index = np.arange(out, dtype=np.float64)
    if mode == "align_corners":
        return index * (size - 1) / (out - 1) if out > 1 else np.zeros(out)
    if mode == "asymmetric":
        return index / scale
    if mode == "tf_crop_and_resize":
        first, last = _box(node, axis, size)
        return first + index * (last - first) / (out - 1) if out > 1 else np.full(1, (first + last) / 2)
    if mode == "pytorch_half_pixel" and out == 1:
        return np.full(1, -0.5)
    if mode == "half_pixel_symmetric":
        adjustment = out / (scale * size)
        return size / 2 * (1 - adjustment) + (index + 0.5) / scale - 0.5
    return (index + 0.5) / scale - 0.5


def _nearest(node: ir.Node, position: np.ndarray, size: int) -> np.ndarray:
    mode = graph.attribute(node, "nearest_mode", "round_prefer_floor")
    rounded = {
        "floor": np.floor(position),
        "ceil": np.ceil(position),
        "round_prefer_floor": np.ceil(position - 0.5),
        "round_prefer_ceil": np.floor(position + 0.5),
    }[mode]
    return np.asarray(np.clip(rounded, 0, size - 1), np.int64)


def _weights(position: np.ndarray, size: int) -> np.ndarray:
    """[out, size] interpolation weights over 2^WEIGHT_BITS as int16; every row sums to 2^WEIGHT_BITS."""
    clipped = np.clip(position, 0, size - 1)
    low = np.floor(clipped).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    upper = np.rint((clipped - low) * (1 << WEIGHT_BITS)).astype(np.int64)
    table = np.zeros((len(position), size), np.int64)
    np.add.at(table, (np.arange(len(position)), low), (1 << WEIGHT_BITS) - upper)
    np.add.at(table, (np.arange(len(position)), high), upper)
    return table.astype(np.int16)
