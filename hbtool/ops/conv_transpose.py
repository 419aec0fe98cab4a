"""Transposed convolution (1-D and 2-D), with bias, requantization and clamp in one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT32, IntType, QParams, int_type
from hbtool.ops.accumulator import clamped_onnx, exact_convolutions, finish, finish_onnx
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.interleave import interleave
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Sample, Tile, constraint
from hbtool.target.job import Work


@dataclass(frozen=True)
class ConvTransposeAttributes:
    """Where the output lies in the full product (crops), zero points, type of the result and the absorbed clamp.

    The full product of an axis has (n - 1) * stride + kernel elements; the output is `sizes` of them from `crops` on,
    zero where it reaches past either end.
    """

    strides: tuple[int, ...] = (1, 1)
    crops: tuple[int, ...] = (0, 0)
    sizes: tuple[int, ...] = (1, 1)
    group: int = 1
    x_zero_point: int = 0
    y_zero_point: int = 0
    y_type: str = "int8"
    clamp_min: int = INT32.min
    clamp_max: int = INT32.max


class ConvTranspose(IntegerOp):
    """A convolution of x spread by the strides (zeros between neighbours) with w, whose taps are stored flipped.

    Operands: x [N, C, *spatial], w int8 [M, C/group, *kernel], bias int32 [M], m float32 [M].
    """

    name = "ConvTranspose"
    Attributes = ConvTransposeAttributes
    parameters = (1, 2, 3)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        data, weight, bias, factor = x
        taps = tuple(int(k) for k in weight.shape[2:])  # type: ignore[union-attr]
        rank = len(taps)
        spread = m.spread(data, a.strides, a.x_zero_point)
        # Output o reads spread positions o + crop - (taps - 1) ... o + crop.
        before = [taps[i] - 1 - a.crops[i] for i in range(rank)]
        after = [a.sizes[i] + taps[i] - 1 - before[i] - int(spread.shape[2 + i]) for i in range(rank)]
        cuts = [(max(-before[i], 0), int(spread.shape[2 + i]) - max(-after[i], 0), 1) for i in range(rank)]
        spread = m.slice(spread, [*((0, int(n), 1) for n in spread.shape[:2]), *cuts])
        acc = m.conv(
            spread,
            weight,
            zero_point=a.x_zero_point,
            strides=(1,) * rank,
            pads=(*(max(p, 0) for p in before), *(max(p, 0) for p in after)),
            dilations=(1,) * rank,
            group=a.group,
        )
        per_channel = (1, -1, *(1 for _ in a.strides))
        return finish(m, a, acc, m.reshape(bias, per_channel), m.reshape(factor, per_channel))

    def to_onnx(
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        """One small convolution per phase of the stride, all as channels of one convolution, then interleaved.

        Zeros between neighbours are never multiplied, and the convolution is onnxruntime's fast u8 x s8 one.
        """
        data, weight, bias, factor = (o for o in x if o is not None)
        y_type = int_type(a.y_type)
        phases = graph.elements(a.strides)
        kernel = _phase_kernel(weight.constant(), a.strides)
        counts = tuple((a.sizes[i] - 1 + a.crops[i]) // s + 1 for i, s in enumerate(a.strides))
        begins = tuple(k - 1 for k in kernel.shape[2:])
        ends = tuple(max(n - size, 0) for n, size in zip(counts, data.shape[2:], strict=True))
        counts = tuple(size + end for size, end in zip(data.shape[2:], ends, strict=True))
        window = {"kernel_shape": kernel.shape[2:], "pads": (*begins, *ends), "group": a.group}
        flat_bias = np.repeat(bias.constant(), phases)
        flat_factor = np.repeat(np.broadcast_to(factor.constant(), bias.shape), phases)
        if data.type is INT8 and y_type is INT8:
            one = b.const(1.0, np.float32)
            y = b.op(
                "QLinearConv",
                b.value(data),
                one,
                b.zero_point(INT8, a.x_zero_point),
                b.const(kernel),
                b.const(flat_factor),
                b.const(np.zeros(len(flat_bias), np.int8)),
                one,
                b.zero_point(INT8, a.y_zero_point),
                b.const(flat_bias),
                **window,
            )
            y = clamped_onnx(b, a, y)
        else:
            sums = exact_convolutions(b, data, a.x_zero_point, kernel, window)
            shape = (1, -1, *(1 for _ in a.strides))
            y = finish_onnx(b, a, sums, flat_bias.reshape(shape), flat_factor.reshape(shape))
        return [self._interleave(b, a, y, (data.shape[0], weight.shape[0]), counts)]

    @staticmethod
    def _interleave(b: OnnxBuilder, a: Any, y: ir.Value, lead: tuple[int, int], counts: Sequence[int]) -> ir.Value:
        """[N, M * phases, *counts] -> [N, M, *sizes]."""
        rank = len(counts)
        y, sizes = interleave(b, y, lead[0] * lead[1], a.strides, counts)
        y = b.reshape(y, (*lead, *sizes[1:]))
        if (sizes[1:], (0,) * rank) == (a.sizes, a.crops):
            return y
        stops = [crop + size for crop, size in zip(a.crops, a.sizes, strict=True)]
        lists = (a.crops, stops, range(2, 2 + rank))
        return b.op("Slice", y, *(b.const(list(v), np.int64) for v in lists))

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile | None:
        x, w = shapes[0], shapes[1]
        assert x is not None and w is not None
        if a.group != 1 and box[1] != (0, out[1]):
            return None
        boxes, crops, sizes = [], [], []
        for i, (start, stop) in enumerate(box[2:]):
            stride, size, crop = a.strides[i], x[2 + i], a.crops[i]
            first = min(max(-((w[2 + i] - 1 - start - crop) // stride), 0), size - 1)
            last = max(min((stop - 1 + crop) // stride, size - 1), first)
            boxes.append((first, last + 1))
            crops.append(start + crop - first * stride)
            sizes.append(stop - start)
        weight: Box = (box[1], (0, w[1]), *((0, k) for k in w[2:]))
        attributes = replace(a, crops=tuple(crops), sizes=tuple(sizes))
        return Tile(((box[0], (0, x[1]), *boxes), weight, (box[1],), (box[1],)), attributes)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        x, w = shapes[0], shapes[1]
        assert x is not None and w is not None
        return Work(
            "matrix",
            rows=x[-1],
            repeats=x[0] * graph.elements(x[2:-1]),
            outputs=out[1] // a.group,
            inputs=w[1],
            taps=graph.elements(w[2:]),
            groups=a.group,
            bits=types[0].bits,
        )


def _phase_kernel(weight: np.ndarray, strides: Sequence[int]) -> np.ndarray:
    """[M * phases, C/group, *small]: of the flipped weights [M, C/group, *kernel] the taps that each phase reads."""
    taps = weight.shape[2:]
    small = [-(-k // s) for k, s in zip(taps, strides, strict=True)]
    out = np.zeros((weight.shape[0], *strides, weight.shape[1], *small), weight.dtype)
    for position in np.ndindex(*taps):
        # Tap t of the unflipped weights belongs to phase t mod stride and reads the input t // stride before.
        unflipped = [k - 1 - p for k, p in zip(taps, position, strict=True)]
        phase = tuple(t % s for t, s in zip(unflipped, strides, strict=True))
        place = tuple(n - 1 - t // s for n, t, s in zip(small, unflipped, strides, strict=True))
        out[(slice(None), *phase, slice(None), *place)] = weight[(slice(None), slice(None), *position)]
    return out.reshape(-1, weight.shape[1], *small)


class ConvTransposeFloat(Limited):
    """ONNX ConvTranspose with constant weights."""

    op_types = ("ConvTranspose",)
    int8_only = ("bayes", "bayes-e")
    absorbs_clamp = True
    high_precision = True
    channel_scales_out = True
    error_steps = 4.0
    rule_text = "a convolution of the spread input: int8 weights per output channel, int32 bias and accumulator"

    @constraint()
    def constant_weights(self, node: ir.Node, limit: Any) -> bool | str:
        """constant weights and bias"""
        return all(v is None or graph.constant(v) is not None for v in node.inputs[1:]) or "they are computed"

    @constraint(bernoulli2=2, bayes=2, bayes_e=2, nash=2)
    def spatial_axes(self, node: ir.Node, limit: int) -> bool | str:
        """at most {limit} spatial axes"""
        rank = len(_kernel(node))
        return 1 <= rank <= limit or f"there are {rank}"

    @constraint(bernoulli2=14, bayes=14, bayes_e=14, nash=14)
    def kernel_size(self, node: ir.Node, limit: int) -> bool | str:
        """kernel height and width of at most {limit}"""
        return max(_kernel(node)) <= limit or f"the kernel is {_by(_kernel(node))}"

    @constraint("bernoulli2")
    def no_flat_kernel(self, node: ir.Node, limit: Any) -> bool | str:
        """kernel height and width of at least 2"""
        return min(_kernel(node)) >= 2 or f"the kernel is {_by(_kernel(node))}"

    @constraint("bayes", "bayes-e")
    def really_spreads(self, node: ir.Node, limit: Any) -> bool | str:
        """a kernel larger than 1x1 and a stride larger than 1 in some direction"""
        kernel, strides = _kernel(node), _strides(node)
        return (max(kernel) > 1 and max(strides) > 1) or f"the kernel is {_by(kernel)}, the stride {_by(strides)}"

    @constraint("bernoulli2")
    def narrow_padding(self, node: ir.Node, limit: Any) -> bool | str:
        """padding of at most (k - 1) / 2 for a kernel of k"""
        pads = _pads(node)
        fits = all(2 * p <= k - 1 for p, k in zip(pads, _kernel(node) * 2, strict=True))
        return fits or f"the kernel is {_by(_kernel(node))}, the padding {_by(pads)}"

    @constraint("bayes", "bayes-e")
    def padding(self, node: ir.Node, limit: Any) -> bool | str:
        """padding below k / s for a kernel of k and an odd stride of s, of at most k / s for an even one"""
        pads, strides = _pads(node), _strides(node) * 2
        rows = zip(pads, _kernel(node) * 2, strides, strict=True)
        fits = all(p * s < k if s % 2 else p * s <= k for p, k, s in rows)
        return fits or f"the kernel is {_by(_kernel(node))}, the stride {_by(_strides(node))}, the padding {_by(pads)}"

    @constraint("bayes", "bayes-e")
    def output_padding(self, node: ir.Node, limit: Any) -> bool | str:
        """output_padding of 0 or 1"""
        extra = graph.attribute(node, "output_padding") or (0,)
        return max(extra) <= 1 or f"it is {_by(extra)}"

    @constraint(bernoulli2=2048, bayes=2048, bayes_e=2048)
    def channels(self, node: ir.Node, limit: int) -> bool | str:
        """at most {limit} channels"""
        shape = graph.static_shape(node.inputs[1])  # type: ignore[arg-type]
        most = max(shape[0], shape[1] * graph.attribute(node, "group", 1))
        return most <= limit or f"there are {most}"

    @constraint(bayes=14, bayes_e=14, nash=14)
    def stride(self, node: ir.Node, limit: int) -> bool | str:
        """strides of 1 to {limit}"""
        strides = graph.attribute(node, "strides", (1,))
        return max(strides) <= limit or f"the stride is {'x'.join(map(str, strides))}"

    @constraint("bernoulli2")
    def power_of_two_stride(self, node: ir.Node, limit: Any) -> bool | str:
        """strides of 2 or 4, that of the height at most that of the width"""
        strides = graph.attribute(node, "strides", (1, 1))
        return (set(strides) <= {2, 4} and strides[0] <= strides[-1]) or f"they are {'x'.join(map(str, strides))}"

    @constraint(bayes=65535, bayes_e=32767, nash=65535)
    def kernel_volume(self, node: ir.Node, limit: int) -> bool | str:
        """at most {limit} weights per output channel and phase of the stride"""
        strides = graph.attribute(node, "strides", (1,) * len(_kernel(node)))
        taps = graph.elements([-(-k // s) for k, s in zip(_kernel(node), strides, strict=True)])
        volume = taps * graph.static_shape(node.inputs[1])[0] // graph.attribute(node, "group", 1)  # type: ignore[arg-type]
        return volume <= limit or f"there are {volume}"

    @constraint()
    def no_dilation(self, node: ir.Node, limit: Any) -> bool | str:
        """dilation 1"""
        return max(graph.attribute(node, "dilations", (1,))) == 1 or "it is dilated"

    def bias(self, node: ir.Node) -> tuple[int, int] | None:  # noqa: D102
        return 2, 1

    def weight_axes(self, node: ir.Node) -> Mapping[int, int]:  # noqa: D102
        return {1: 1} if graph.attribute(node, "group", 1) == 1 else {}

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x, weight_value = node.inputs[0], node.inputs[1]
        assert x is not None
        weight = graph.constant(weight_value)
        bias = graph.constant(graph.input_at(node, 2))
        assert weight is not None
        group = graph.attribute(node, "group", 1)
        if group != 1:
            # One scale per channel has no axis in [C, M/group, ...]: thresholds come from the rearranged weights.
            weight_value = None
        flipped = _as_conv(weight, group)
        scale = b.q(x).scale
        quantized, integer_bias = b.weight_with_bias(weight_value, flipped, 0, bias, scale)
        result = b.result(node)
        raw = result.raw_accumulator
        products = tuple(float(s) for s in np.float32(scale) * quantized.scales)
        q = QParams(INT32, products, 0, 1) if raw else result.q
        factor = b.multiplier([scale], quantized.scales, 1.0 if raw else np.asarray(q.scales))
        out = graph.static_shape(node.outputs[0])
        strides = graph.attribute(node, "strides") or (1,) * (weight.ndim - 2)
        crops = _crops(node, graph.static_shape(x)[2:], weight.shape[2:], strides, out[2:])
        attributes = ConvTransposeAttributes(
            strides, crops, out[2:], group, b.q(x).zero_point, q.zero_point, q.type.name, *result.clamp
        )
        operands = [
            b.x(x),
            b.const(quantized.integers, "weight"),
            b.const(integer_bias, "bias"),
            b.const(factor, "multiplier"),
        ]
        b.emit(ConvTranspose, operands, q, out, attributes, represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(21)

        def make(name: str, x: tuple[int, ...], w: tuple[int, ...], bias: int = 0, **attributes: Any) -> Sample:
            constants = {1: rng.standard_normal(w).astype(np.float32)}
            if bias:
                constants[2] = rng.standard_normal(bias).astype(np.float32)
            data = rng.standard_normal(x).astype(np.float32)
            return Sample(name, "ConvTranspose", (data,), constants, attributes, steps=4.0)

        yield make("2x2 stride 2", (1, 6, 5, 7), (6, 4, 2, 2), 4, strides=(2, 2))
        yield make("3x3 stride 2, output_padding", (2, 3, 4, 5), (3, 5, 3, 3), 5, strides=(2, 2), **_PADDED)
        yield make("4x4 stride 2 padded", (1, 4, 6, 5), (4, 3, 4, 4), strides=(2, 2), pads=(1, 1, 1, 1))
        yield make("groups, uneven strides", (1, 6, 4, 4), (6, 2, 3, 5), 6, group=3, strides=(2, 3), pads=(0, 1, 1, 2))
        yield make("depthwise bilinear", (1, 4, 4, 5), (4, 1, 4, 4), group=4, strides=(2, 2), pads=(1, 1, 1, 1))
        yield make("stride 1", (1, 3, 5, 5), (3, 4, 3, 3), pads=(1, 1, 1, 1))
        yield make("output_shape", (1, 3, 4, 4), (3, 2, 3, 3), strides=(2, 2), output_shape=(8, 8))
        yield make("1-D, stride above kernel", (1, 3, 6), (3, 4, 2), 4, strides=(3,))


_PADDED = {"pads": (1, 1, 1, 1), "output_padding": (1, 1)}


def _kernel(node: ir.Node) -> tuple[int, ...]:
    weight = node.inputs[1]
    return () if weight is None else graph.static_shape(weight)[2:]


def _strides(node: ir.Node) -> tuple[int, ...]:
    return tuple(graph.attribute(node, "strides") or (1,) * len(_kernel(node)))


def _pads(node: ir.Node) -> tuple[int, ...]:
    return tuple(graph.attribute(node, "pads") or (0,) * 2 * len(_kernel(node)))


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _as_conv(weight: np.ndarray, group: int) -> np.ndarray:
    """ONNX's [C, M/group, *kernel] as the weights of the equivalent convolution [M, C/group, *kernel], taps flipped."""
    inputs, outputs = weight.shape[0] // group, weight.shape[1]
    grouped = weight.reshape(group, inputs, outputs, *weight.shape[2:]).swapaxes(1, 2)
    flipped = np.flip(grouped, axis=tuple(range(3, grouped.ndim)))
    return np.ascontiguousarray(flipped.reshape(group * outputs, inputs, *weight.shape[2:]))


def _crops(
    node: ir.Node, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], out: Sequence[int]
) -> tuple[int, ...]:
    """How many elements of the full product lie before the output, per axis (ONNX ConvTranspose, pads or auto_pad)."""
    rank = len(kernel)
    auto = graph.attribute(node, "auto_pad", "NOTSET")
    if auto == "NOTSET" and graph.attribute(node, "output_shape") is None:
        return tuple((graph.attribute(node, "pads") or (0,) * rank)[:rank])
    if auto == "VALID":
        return (0,) * rank
    extra = graph.attribute(node, "output_padding") or (0,) * rank
    crops = []
    for i in range(rank):
        total = max(strides[i] * (size[i] - 1) + extra[i] + kernel[i] - out[i], 0)
        # ONNX: SAME_UPPER puts the smaller half before, every other mode the larger half.
        crops.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return tuple(crops)
