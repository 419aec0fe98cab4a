"""Fake quantization: the quantize-dequantize forward and its straight-through gradient, in as few passes as possible.

`torch.fake_quantize_per_tensor_affine` costs 27 ms for 6.3 M elements on one CPU thread and keeps a mask; four
in-place passes over one new tensor cost 7 ms, and the backward needs only the input, which an absorbed batch
normalization no longer keeps. A ReLU or ReLU6 in front costs nothing: it is a pair of limits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def quantize_dequantize(x: Tensor, scale: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """clamp(round_half_even(x / scale), quant_min, quant_max) * scale, `scale` broadcast against x."""
    y = torch.div(x, scale)
    y.round_().clamp_(quant_min, quant_max)
    return y.mul_(scale)


Clip = tuple[float, float]
"""Real limits that a value is clipped to before it is rounded: (0, inf) is a ReLU, (0, 6) a ReLU6."""


def clip_values(x: Tensor, clip: Clip | None, in_place: bool = False) -> Tensor:
    """x clipped, written as the activation that the limits stand for."""
    if clip is None:
        return x
    if clip == (0.0, math.inf):
        return torch.relu_(x) if in_place else torch.relu(x)
    return torch.nn.functional.hardtanh(x, *clip, inplace=in_place)


class FakeQuantizeFunction(torch.autograd.Function):
    """Quantize-dequantize with gradient 1 inside the range and 0 outside (inside `clip` only, if not `saturate`)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, quant_min: int, quant_max: int, clip: Clip | None, saturate: bool
    ) -> Tensor:
        """Fake-quantized clip(x); `scale` broadcasts against x and must be one value if `clip` is given."""
        low, high = clip or (-math.inf, math.inf)
        low_q = max(quant_min, round(low / float(scale))) if low > -math.inf else quant_min
        high_q = min(quant_max, int((high / scale).round())) if high < math.inf else quant_max
        # The observer moves the scale in place, and a shared module does so before the backward: keep a copy.
        ctx.step = float(scale) if scale.numel() == 1 and not scale.is_cuda else None
        ctx.bounds = (quant_min - 0.5, quant_max + 0.5 + 2.0**-15) if saturate else (-math.inf, math.inf)
        ctx.clip = (low, high)
        if saturate or clip:
            ctx.save_for_backward(x, scale.clone() if ctx.step is None else None)
        else:
            ctx.clip = None
        return quantize_dequantize(x, scale, low_q, high_q)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient that reaches x."""
        (grad,) = grads
        if ctx.clip is None:
            return grad, None, None, None, None, None
        x, scale = ctx.saved_tensors
        (low, high), (clip_low, clip_high) = ctx.bounds, ctx.clip
        if ctx.step is not None:
            low, high = max(low * ctx.step, clip_low), min(high * ctx.step, clip_high)
            return torch.ops.aten.hardtanh_backward(grad, x, low, high), None, None, None, None, None
        inside = (x > low * scale) & (x < high * scale) & (x > clip_low) & (x < clip_high)
        return grad * inside, None, None, None, None, None


class Substitute(torch.autograd.Function):
    """The forward of one tensor with the gradient of another of the same shape."""

    @staticmethod
    def forward(ctx: Any, float_result: Tensor, exact: Tensor) -> Tensor:
        """`exact`."""
        return exact.view_as(exact)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient goes to `float_result`."""
        return grads[0], None


def substitute(float_result: Tensor, exact: Tensor) -> Tensor:
    """`exact` with the gradient of `float_result`."""
    out: Tensor = Substitute.apply(float_result, exact)  # type: ignore[no-untyped-call]
    return out


@torch.library.custom_op("hbtool::fake_quantize", mutates_args=())
def fake_quantize_op(x: Tensor, scale: Tensor, bits: int, quant_min: int, quant_max: int, axis: int) -> Tensor:
    """The same forward as one opaque operator: what `torch.export` and the ONNX exporter see.

    Args:
        x: float32, any shape.
        scale: float32 [1], or one per index of `axis`.
        bits: 8 or 16, the storage type.
        quant_min: smallest integer.
        quant_max: largest integer.
        axis: channel axis of `scale`, -1 for one scale.
    """
    return quantize_dequantize(x, channel_shape(scale, x.dim(), axis), quant_min, quant_max)


@fake_quantize_op.register_fake
def _(x: Tensor, scale: Tensor, bits: int, quant_min: int, quant_max: int, axis: int) -> Tensor:
    return torch.empty_like(x)


def channel_shape(values: Tensor, rank: int, axis: int) -> Tensor:
    """`values` [C] shaped to broadcast along `axis` of a tensor of `rank` dimensions; unchanged if axis is -1."""
    if axis < 0 or values.numel() == 1:
        return values
    shape = [1] * rank
    shape[axis] = -1
    return values.view(shape)
