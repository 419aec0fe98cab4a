"""Pooling: maximum (integers pass through) and average (integer sum, then one requantization)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT16, INT32, IntType, int_type, symmetric
from hbtool.ops.accumulator import clamped_onnx, finish
from hbtool.ops.boundary import requantized
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Sample, Tile, constraint
from hbtool.ops.window import Window, window_of
from hbtool.target.job import Work


@dataclass(frozen=True)
class PoolAttributes:
    """A window with explicit padding."""

    kernel_shape: tuple[int, ...] = (1, 1)
    strides: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)


@dataclass(frozen=True)
class MaxAttributes(PoolAttributes):
    """A window, and the integer that padding holds: the smallest of the type."""

    pad_value: int = INT8.min


@dataclass(frozen=True)
class AverageAttributes(PoolAttributes):
    """A window, zero points, type of the result, absorbed clamp."""

    x_zero_point: int = 0
    y_zero_point: int = 0
    y_type: str = "int8"
    clamp_min: int = INT32.min
    clamp_max: int = INT32.max


def _window(a: Any) -> Window:
    return Window(a.kernel_shape, a.strides, a.pads, a.dilations)


def _pool_tile(a: Any, shapes: Sequence[tuple[int, ...] | None], box: Box, others: Sequence[Box | None] = ()) -> Tile:
    x = shapes[0]
    assert x is not None
    spatial, pads = _window(a).input_box(box[2:], x[2:])
    return Tile(((box[0], box[1], *spatial), *others), replace(a, pads=pads))


def _pool_work(a: Any, out: tuple[int, ...], types: Sequence[IntType]) -> Work:
    return Work("vector", vector_ops=graph.elements(out) * graph.elements(a.kernel_shape), bits=types[0].bits)


class MaxPool(IntegerOp):
    """Maximum over the window; padding never wins; the scale does not change."""

    name = "MaxPool"
    Attributes = MaxAttributes

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.window_max(
            x[0], kernel=a.kernel_shape, strides=a.strides, pads=a.pads, dilations=a.dilations, pad_value=a.pad_value
        )

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None
        window = {"kernel_shape": a.kernel_shape, "strides": a.strides, "pads": a.pads, "dilations": a.dilations}
        return [b.op("MaxPool", b.value(operand), **window)]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        return _pool_tile(a, shapes, box)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        return _pool_work(a, out, types)


class AveragePool(IntegerOp):
    """y = clamp(saturate(round_half_even(float32(sum(x - zp_x)) * m) + zp_y)), m = s_x / (count * s_y).

    m is [1] when every window counts the same number of elements, else [1, 1, *out] (padding not counted).
    """

    name = "AveragePool"
    Attributes = AverageAttributes
    parameters = (1,)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        total = m.window_sum(
            m.widen(x[0], a.x_zero_point),
            kernel=a.kernel_shape,
            strides=a.strides,
            pads=a.pads,
            dilations=a.dilations,
            pad_value=0,
        )
        return finish(m, a, total, None, x[1])

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand, factor = x[0], x[1]
        assert operand is not None and factor is not None
        y_type = int_type(a.y_type)
        channels = operand.shape[1]
        window = {"kernel_shape": a.kernel_shape, "strides": a.strides, "pads": a.pads, "dilations": a.dilations}
        ones = (channels, 1, *a.kernel_shape)
        if operand.type is INT8 and y_type is INT8 and factor.shape == (1,):
            one = b.const(1.0, np.float32)
            y = b.op(
                "QLinearConv",
                b.value(operand),
                one,
                b.zero_point(INT8, a.x_zero_point),
                b.const(np.ones(ones, np.int8)),
                b.const(np.broadcast_to(factor.constant(), (channels,))),
                b.const(np.zeros(channels, np.int8)),
                one,
                b.zero_point(INT8, a.y_zero_point),
                group=channels,
                **window,
            )
        else:
            total = b.op(
                "Conv",
                b.as_float(operand, a.x_zero_point),
                b.const(np.ones(ones, np.float32)),
                group=channels,
                **window,
            )
            y = b.from_float(b.op("Mul", total, b.value(factor)), y_type, a.y_zero_point)
        return [clamped_onnx(b, a, y)]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        factor = shapes[1]
        assert factor is not None
        per_position: Box | None = None if factor == (1,) else ((0, 1), (0, 1), *box[2:])
        return _pool_tile(a, shapes, box, [per_position])

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        return _pool_work(a, out, types)


class _PoolFloat(Limited):
    """What the pooling operators share."""

    @constraint(bernoulli2=185, bayes=256, bayes_e=256, nash=256)
    def stride(self, node: ir.Node, limit: int) -> bool | str:
        """stride at most {limit}"""
        strides = graph.attribute(node, "strides", (1,))
        return max(strides) <= limit or f"the stride is {'x'.join(map(str, strides))}"

    @constraint(bayes=256, bayes_e=256, nash=256)
    def padding(self, node: ir.Node, limit: int) -> bool | str:
        """padding at most {limit}"""
        pads = graph.attribute(node, "pads", (0,))
        return max(pads) <= limit or f"the largest is {max(pads)}"

    @constraint(bernoulli2=2, bayes=2, bayes_e=2, nash=3)
    def spatial_axes(self, node: ir.Node, limit: int) -> bool | str:
        """pooling over 1 to {limit} axes behind batch and channels"""
        rank = len(graph.static_shape(node.outputs[0])) - 2
        return 1 <= rank <= limit or f"there are {rank}"

    @constraint("bernoulli2", "bayes", "bayes-e")
    def no_dilation(self, node: ir.Node, limit: Any) -> bool | str:
        """dilation 1"""
        return max(graph.attribute(node, "dilations", (1,))) == 1 or "it is dilated"


class MaxPoolFloat(_PoolFloat):
    """ONNX MaxPool (without indices)."""

    op_types = ("MaxPool",)
    passive = True
    rule_text = "maximum of integers, scale unchanged"

    @constraint(bernoulli2=64, bayes=256, bayes_e=256, nash=256)
    def kernel_size(self, node: ir.Node, limit: int) -> bool | str:
        """a window of at most {limit} in each direction"""
        kernel = graph.attribute(node, "kernel_shape", (1,))
        return max(kernel) <= limit or f"the window is {'x'.join(map(str, kernel))}"

    @constraint()
    def no_indices(self, node: ir.Node, limit: Any) -> bool | str:
        """no index output"""
        return len(node.outputs) == 1 or "the indices are asked for"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        result = b.result(node)
        w = window_of(node)
        attributes = MaxAttributes(w.kernel, w.strides, w.pads, w.dilations, result.q.type.min)
        source = requantized(b, b.x(x), result.q)
        b.emit(MaxPool, [source], result.q, graph.static_shape(node.outputs[0]), attributes, represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(8).standard_normal((1, 3, 9, 10)).astype(np.float32)
        yield Sample(
            "3x3 stride 2 padded",
            "MaxPool",
            (x,),
            attributes={"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
        )
        yield Sample(
            "ceil_mode", "MaxPool", (x,), attributes={"kernel_shape": (2, 2), "strides": (2, 2), "ceil_mode": 1}
        )
        yield Sample(
            "3-D", "MaxPool", (x.reshape(1, 3, 3, 5, 6),), attributes={"kernel_shape": (2, 2, 2), "strides": (1, 2, 2)}
        )
        yield Sample("1-D dilated", "MaxPool", (x[0],), attributes={"kernel_shape": (3,), "dilations": (2,)})
        yield Sample(
            "all negative", "MaxPool", (-np.abs(x),), attributes={"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
        )


class AveragePoolFloat(_PoolFloat):
    """ONNX AveragePool and GlobalAveragePool."""

    op_types = ("AveragePool", "GlobalAveragePool")
    int8_only = ("bayes", "bayes-e")
    narrows_int16 = True
    absorbs_clamp = True
    rule_text = "integer sum, one float32 multiply by s_x / (count * s_y)"

    @constraint(bernoulli2=7, bayes=256, bayes_e=256, nash=256)
    def kernel_size(self, node: ir.Node, limit: int) -> bool | str:
        """for AveragePool: a window of at most {limit} in each direction"""
        kernel = graph.attribute(node, "kernel_shape", (1,))
        return max(kernel) <= limit or f"the window is {'x'.join(map(str, kernel))}"

    @constraint(bayes_e=8192)
    def window_area(self, node: ir.Node, limit: int) -> bool | str:
        """for AveragePool: a window of at most {limit} elements"""
        area = graph.elements(graph.attribute(node, "kernel_shape", (1,)))
        return area <= limit or f"there are {area}"

    @constraint(bernoulli2=8192)
    def image_area(self, node: ir.Node, limit: int) -> bool | str:
        """for GlobalAveragePool: an image of at most {limit} pixels"""
        x = node.inputs[0]
        assert x is not None
        area = graph.elements(graph.static_shape(x)[2:])
        return node.op_type != "GlobalAveragePool" or area <= limit or f"there are {area}"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        assert x is not None
        size = graph.static_shape(x)[2:]
        result = b.result(node)
        out = graph.static_shape(node.outputs[0])
        if node.op_type == "GlobalAveragePool":
            w = Window(size, (1,) * len(size), (0,) * (2 * len(size)), (1,) * len(size))
        else:
            w = window_of(node)
        counts = self._counts(node, w, size, out[2:])
        q = b.q(x)
        if q.type is INT16 and b.family in self.int8_only:
            q = symmetric(q.scale * INT16.max, INT8)
        scale = np.float32(q.scale)
        factor = b.multiplier(scale / counts, [1.0], result.q.scale)
        factor = factor[:1] if np.all(counts == counts.flat[0]) else factor.reshape(1, 1, *out[2:])
        attributes = AverageAttributes(
            w.kernel,
            w.strides,
            w.pads,
            w.dilations,
            q.zero_point,
            result.q.zero_point,
            result.q.type.name,
            *result.clamp,
        )
        source = requantized(b, b.x(x), q)
        b.emit(AveragePool, [source, b.const(factor, "multiplier")], result.q, out, attributes, represents=result.value)

    @staticmethod
    def _counts(node: ir.Node, w: Window, size: Sequence[int], out: Sequence[int]) -> np.ndarray:
        """Number of elements each window averages over, flat float32 array in output order."""
        counts = np.ones((), np.float32)
        include = bool(graph.attribute(node, "count_include_pad", 0))
        same = graph.attribute(node, "auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
        given = w.pads if same else graph.attribute(node, "pads") or (0,) * len(w.pads)
        for i in range(w.rank):
            # Padding that ceil_mode added past the stated padding is never counted.
            low, high = (-w.pads[i], size[i] + given[w.rank + i]) if include else (0, size[i])
            starts = np.arange(out[i]) * w.strides[i] - w.pads[i]
            taps = starts[:, None] + np.arange(w.kernel[i]) * w.dilations[i]
            counts = np.multiply.outer(counts, ((taps >= low) & (taps < high)).sum(axis=1).astype(np.float32))
        return counts.reshape(-1)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(9).standard_normal((1, 3, 9, 10)).astype(np.float32)
        padded = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
        yield Sample("2x2", "AveragePool", (x,), attributes={"kernel_shape": (2, 2), "strides": (2, 2)}, steps=1.5)
        yield Sample("padding not counted", "AveragePool", (x,), attributes=padded, steps=1.5)
        yield Sample("padding counted", "AveragePool", (x,), attributes={**padded, "count_include_pad": 1}, steps=1.5)
        yield Sample("global", "GlobalAveragePool", (x + 1,), steps=1.5)
        line = x.reshape(1, 3, 90)
        yield Sample("1-D", "AveragePool", (line,), attributes={"kernel_shape": (5,), "strides": (3,)}, steps=1.5)
        cube = x.reshape(1, 3, 3, 5, 6)
        window = {"kernel_shape": (2, 3, 2), "pads": (0, 1, 0, 1, 1, 0)}
        yield Sample("3-D", "AveragePool", (cube,), attributes=window, steps=1.5)
        dilated = {"kernel_shape": (2, 2), "dilations": (2, 3), "ceil_mode": 1, "strides": (2, 2)}
        yield Sample("dilated, ceil_mode", "AveragePool", (x,), attributes=dilated, steps=1.5)
