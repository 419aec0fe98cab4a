"""Convolution (1-D, 2-D, 3-D, grouped, depthwise), with bias, requantization and clamp in one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT32, IntType, QParams, int_type
from hbtool.ops.accumulator import clamped_onnx, exact_convolutions, finish, finish_onnx, int32_fits, int32_product
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Sample, Tile, constraint
from hbtool.ops.reshape import Reshape, ReshapeAttributes
from hbtool.ops.window import Window, window_of
from hbtool.target.job import Work


@dataclass(frozen=True)
class ConvAttributes:
    """ONNX Conv attributes with explicit padding, zero points, type of the result and the absorbed clamp."""

    strides: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)
    group: int = 1
    x_zero_point: int = 0
    y_zero_point: int = 0
    y_type: str = "int8"
    clamp_min: int = INT32.min
    clamp_max: int = INT32.max


class Conv(IntegerOp):
    """y = clamp(saturate(round_half_even(float32(sum((x - zp_x) * w) + bias) * m[channel]) + zp_y)).

    Operands: x [N, C, *spatial], w int8 [M, C/group, *kernel], bias int32 [M], m float32 [M].
    With y_type int32 the accumulator itself is the result and m is not used.
    """

    name = "Conv"
    Attributes = ConvAttributes
    parameters = (1, 2, 3)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        data, weight, bias, factor = x
        acc = m.conv(
            data,
            weight,
            zero_point=a.x_zero_point,
            strides=a.strides,
            pads=a.pads,
            dilations=a.dilations,
            group=a.group,
        )
        per_channel = (1, -1, *(1 for _ in a.strides))
        return finish(m, a, acc, m.reshape(bias, per_channel), m.reshape(factor, per_channel))

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        data, weight, bias, factor = (o for o in x if o is not None)
        window = {"strides": a.strides, "pads": a.pads, "dilations": a.dilations, "group": a.group}
        window["kernel_shape"] = weight.shape[2:]
        y_type = int_type(a.y_type)
        if data.type is INT8 and y_type is INT8:
            one, zero = b.const(1.0, np.float32), b.const(np.zeros(weight.shape[0], np.int8))
            y = b.op(
                "QLinearConv",
                b.value(data),
                one,
                b.zero_point(INT8, a.x_zero_point),
                b.const(weight.constant()),
                b.const(factor.constant()),
                zero,
                one,
                b.zero_point(INT8, a.y_zero_point),
                b.const(bias.constant()),
                **window,
            )
            return [clamped_onnx(b, a, y)]
        if data.type is INT8 and y_type is INT32 and _is_product(a, weight.shape):
            matrix = weight.constant().reshape(weight.shape[:2])
            if int32_fits(matrix, bias.constant()):
                return [_as_product(b, a, data, matrix, bias.constant())]
        sums = exact_convolutions(b, data, a.x_zero_point, weight.constant(), window)
        shape = (1, -1, *(1 for _ in a.strides))
        return [finish_onnx(b, a, sums, bias.constant().reshape(shape), factor.constant().reshape(shape))]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile | None:
        x, w = shapes[0], shapes[1]
        assert x is not None and w is not None
        spatial, pads = Window(w[2:], a.strides, a.pads, a.dilations).input_box(box[2:], x[2:])
        first, last = box[1]
        group = a.group
        if group == 1:
            channels = (0, x[1])
        else:
            per_group = out[1] // group
            if (first % per_group or last % per_group) and (first, last) != (0, out[1]):
                return None
            groups = first // per_group, last // per_group
            channels, group = (groups[0] * w[1], groups[1] * w[1]), groups[1] - groups[0]
        weight: Box = (box[1], (0, w[1]), *((0, k) for k in w[2:]))
        return Tile(((box[0], channels, *spatial), weight, (box[1],), (box[1],)), replace(a, pads=pads, group=group))

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        w = shapes[1]
        assert w is not None
        return Work(
            "matrix",
            rows=out[-1],
            repeats=out[0] * graph.elements(out[2:-1]),
            outputs=out[1] // a.group,
            inputs=w[1],
            taps=graph.elements(w[2:]),
            row_taps=w[-1] if a.dilations[-1] == 1 else 1,
            groups=a.group,
            bits=types[0].bits,
        )


def _is_product(a: ConvAttributes, weight_shape: Sequence[int]) -> bool:
    """Whether every output position reads one input position and all channels."""
    plain = a.group == 1 and set(a.strides) == {1} and not any(a.pads)
    return plain and graph.elements(weight_shape[2:]) == 1


def _as_product(b: OnnxBuilder, a: ConvAttributes, data: Operand, weight: np.ndarray, bias: np.ndarray) -> ir.Value:
    """The accumulator as a matrix product with the channels last; weight [M, C]."""
    batch, channels, *spatial = data.shape
    rows = b.op("Transpose", b.reshape(b.value(data), (batch, channels, -1)), perm=(0, 2, 1))
    sums = int32_product(b, rows, a.x_zero_point, np.ascontiguousarray(weight.T), bias)
    return b.reshape(b.op("Transpose", sums, perm=(0, 2, 1)), (batch, weight.shape[0], *spatial))


class ConvFloat(Limited):
    """ONNX Conv with constant weights."""

    op_types = ("Conv",)
    absorbs_clamp = True
    high_precision = True
    channel_scales_in = True
    channel_scales_out = True
    error_steps = 4.0
    rule_text = "int8 weights per output channel, int32 bias and accumulator, one float32 multiply per channel"

    @constraint()
    def constant_weights(self, node: ir.Node, limit: Any) -> bool | str:
        """constant weights and bias"""
        return all(v is None or graph.constant(v) is not None for v in node.inputs[1:]) or "they are computed"

    @constraint(bernoulli2=7, bayes=31, bayes_e=31, nash=31)
    def kernel_size(self, node: ir.Node, limit: int) -> bool | str:
        """kernel height and width between 1 and {limit}"""
        kernel = graph.static_shape(node.inputs[1])[-2:]  # type: ignore[arg-type]
        kernel = kernel if _rank(node) > 1 else kernel[-1:]
        return all(1 <= k <= limit for k in kernel) or f"the kernel is {'x'.join(map(str, kernel))}"

    @constraint(bernoulli2=32768, bayes=65535, bayes_e=32767, nash=65535)
    def kernel_volume(self, node: ir.Node, limit: int) -> bool | str:
        """at most {limit} weights per output channel (input channels of a group times kernel area)"""
        volume = graph.elements(graph.static_shape(node.inputs[1])[1:])  # type: ignore[arg-type]
        return volume <= limit or f"there are {volume}"

    @constraint(bernoulli2=2048)
    def few_channels(self, node: ir.Node, limit: int) -> bool | str:
        """at most {limit} input and output channels per group, twice that without groups and dilation"""
        plain = graph.attribute(node, "group", 1) == 1 and max(graph.attribute(node, "dilations", (1,))) == 1
        most = max(_group_channels(node))
        return most <= (2 * limit if plain else limit) or f"there are {most}"

    @constraint(bayes=8192, bayes_e=8192)
    def channels(self, node: ir.Node, limit: int) -> bool | str:
        """at most {limit} input and output channels per group, eight times as many outputs at the end of the model"""
        inputs, outputs = _group_channels(node)
        most = limit if node.outputs[0].uses() else 8 * limit
        return (inputs <= limit and outputs <= most) or f"there are {inputs} and {outputs}"

    @constraint(bayes=256, bayes_e=256, nash=256)
    def stride(self, node: ir.Node, limit: int) -> bool | str:
        """stride at most {limit}"""
        strides = graph.attribute(node, "strides", (1,))
        return max(strides) <= limit or f"the stride is {'x'.join(map(str, strides))}"

    @constraint(bayes=256, bayes_e=256, nash=256)
    def padding(self, node: ir.Node, limit: int) -> bool | str:
        """padding at most {limit}"""
        pads = graph.attribute(node, "pads", (0,))
        return max(pads) <= limit or f"the largest is {max(pads)}"

    @constraint(bayes=16, bayes_e=16, nash=16)
    def dilation(self, node: ir.Node, limit: int) -> bool | str:
        """dilation at most {limit}"""
        dilations = graph.attribute(node, "dilations", (1,))
        return max(dilations) <= limit or f"the dilation is {'x'.join(map(str, dilations))}"

    @constraint("bayes", "bayes-e")
    def dilated_form(self, node: ir.Node, limit: Any) -> bool | str:
        """with dilation: stride 1, and input height and width that are multiples of it"""
        x = node.inputs[0]
        assert x is not None
        dilations, size = graph.attribute(node, "dilations", (1,)), graph.static_shape(x)[2:]
        if max(dilations) == 1:
            return True
        if max(graph.attribute(node, "strides", (1,))) > 1:
            return "the stride is larger"
        whole = all(n % d == 0 for n, d in zip(size, dilations, strict=True))
        return whole or f"the input is {'x'.join(map(str, size))}, the dilation {'x'.join(map(str, dilations))}"

    @constraint("bernoulli2")
    def power_of_two_dilation(self, node: ir.Node, limit: Any) -> bool | str:
        """dilations that are powers of two and multiples of the stride, that of the height at most that of the width"""
        rank = _rank(node)
        dilations = graph.attribute(node, "dilations", (1,) * rank)
        strides = graph.attribute(node, "strides", (1,) * rank)
        if max(dilations) == 1:
            return True
        fits = all(d.bit_count() == 1 and d % s == 0 for d, s in zip(dilations, strides, strict=True))
        return (fits and dilations[0] <= dilations[-1]) or f"they are {'x'.join(map(str, dilations))}"

    @constraint("bernoulli2")
    def two_dimensional(self, node: ir.Node, limit: Any) -> bool | str:
        """a 2-D convolution"""
        return _rank(node) == 2 or f"it has {_rank(node)} spatial axes"

    @constraint("bayes", "bayes-e")
    def three_dimensional(self, node: ir.Node, limit: Any) -> bool | str:
        """in 3-D: no groups, no dilation, and one stride of 1 or 2 for height and width"""
        if _rank(node) < 3:
            return True
        strides = graph.attribute(node, "strides", (1, 1, 1))
        plain = graph.attribute(node, "group", 1) == 1 and max(graph.attribute(node, "dilations", (1,))) == 1
        return (plain and strides[1] == strides[2] <= 2) or "it has others"

    def bias(self, node: ir.Node) -> tuple[int, int] | None:  # noqa: D102
        return 2, 1

    def weight_axes(self, node: ir.Node) -> Mapping[int, int]:  # noqa: D102
        return {1: 0}

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x, weight_value = node.inputs[0], node.inputs[1]
        assert x is not None
        weight = graph.constant(weight_value)
        bias = graph.constant(graph.input_at(node, 2))
        assert weight is not None
        group = graph.attribute(node, "group", 1)
        if b.q(x).axis is not None:
            # The input's scales change the weights: their own thresholds hold no more.
            weight_value = None
        weight, input_scale = fold_input_scales(weight, b.q(x), group)
        lower_conv(node, b, x, weight_value, weight, bias, input_scale, window_of(node, weight.shape[2:]), group)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(7)

        def make(name: str, x: tuple[int, ...], w: tuple[int, ...], bias: bool = True, **attributes: Any) -> Sample:
            constants = {1: rng.standard_normal(w).astype(np.float32)}
            if bias:
                constants[2] = rng.standard_normal(w[0]).astype(np.float32)
            # int8 weights are off by half a step each: the error grows with the root of the taps.
            return Sample(name, "Conv", (rng.standard_normal(x).astype(np.float32),), constants, attributes, steps=4.0)

        yield make("plain 3x3", (1, 3, 9, 8), (5, 3, 3, 3), pads=(1, 1, 1, 1))
        yield make("1x1 without bias", (1, 16, 5, 7), (8, 16, 1, 1), bias=False)
        yield make("depthwise, stride 2", (2, 6, 11, 10), (6, 1, 3, 3), group=6, strides=(2, 2), pads=(1, 1, 1, 1))
        yield make("groups, asymmetric padding", (1, 8, 7, 7), (12, 2, 3, 2), group=4, pads=(0, 1, 2, 0))
        yield make("dilation 2", (1, 4, 12, 12), (4, 4, 3, 3), dilations=(2, 2), pads=(2, 2, 2, 2))
        yield make("auto_pad", (1, 3, 10, 9), (4, 3, 3, 3), auto_pad="SAME_UPPER", strides=(2, 2))
        yield make("1-D", (1, 4, 20), (6, 4, 5), pads=(2, 2))
        yield make("3-D", (1, 2, 5, 6, 6), (3, 2, 3, 3, 3), pads=(1, 1, 1, 1, 1, 1))


def _group_channels(node: ir.Node) -> tuple[int, int]:
    """Input and output channels of one group."""
    weight = node.inputs[1]
    assert weight is not None
    shape = graph.static_shape(weight)
    return shape[1], shape[0] // graph.attribute(node, "group", 1)


def _rank(node: ir.Node) -> int:
    """Number of spatial axes."""
    weight = node.inputs[1]
    return 0 if weight is None else len(graph.static_shape(weight)) - 2


def fold_input_scales(weight: np.ndarray, q: QParams, group: int) -> tuple[np.ndarray, float]:
    """Per-channel input scales moved into the float weights: sum(s[c] * x * w) = sum(x * (s[c] * w)).

    Returns:
        The weights to quantize, and the one input scale that is left.
    """
    if q.axis is None:
        return weight, q.scale
    per_group = weight.shape[1]
    scales = np.asarray(q.scales, np.float64).reshape(group, per_group)
    rows = np.repeat(scales, weight.shape[0] // group, axis=0)
    return (weight * rows.reshape(weight.shape[0], per_group, *(1,) * (weight.ndim - 2))).astype(np.float32), 1.0


def lower_conv(
    node: ir.Node,
    b: IntegerBuilder,
    x: ir.Value,
    weight_value: ir.Value | None,
    float_weight: np.ndarray,
    bias: np.ndarray | None,
    input_scale: float,
    window: Window,
    group: int,
    line: bool = False,
) -> None:
    """Emit one integer Conv for `node`; other operators that are convolutions in disguise call it too.

    With `line` the tensor has no spatial axis; it gets one of size 1 for the convolution.
    """
    weight, integer_bias = b.weight_with_bias(weight_value, float_weight, 0, bias, input_scale)
    result = b.result(node)
    accumulator = QParams(INT32, tuple(float(s) for s in np.float32(input_scale) * weight.scales), 0, 1)
    q = accumulator if result.raw_accumulator else result.q
    # Per-channel output scales are one division per channel, like per-channel weights.
    factor = b.multiplier([input_scale], weight.scales, 1.0 if result.raw_accumulator else np.asarray(q.scales))
    attributes = ConvAttributes(
        window.strides,
        window.pads,
        window.dilations,
        group,
        b.q(x).zero_point,
        q.zero_point,
        q.type.name,
        *result.clamp,
    )
    constants = [b.const(weight.integers, "weight"), b.const(integer_bias, "bias"), b.const(factor, "multiplier")]
    out = graph.static_shape(node.outputs[0])
    if not line:
        b.emit(Conv, [b.x(x), *constants], q, out, attributes, represents=result.value)
        return
    longer = (*out, 1)
    source = b.emit(Reshape, [b.x(x)], b.q(x), longer, ReshapeAttributes(longer))
    y = b.emit(Conv, [source, *constants], q, longer, attributes)
    b.emit(Reshape, [y], q, out, ReshapeAttributes(out), represents=result.value)
