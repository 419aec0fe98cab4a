"""The integers a weighted QAT layer is deployed with, and its forward on them: the bits of the fixed-point model.

A float fake-quantized convolution differs from the deployed one by more than rounding ties: the bias lies on the grid
s_x * s_w, the requantization multiplier has the march's significant bits, a fused sum works with dyadic ratios. In
VALIDATION state a layer whose input scale is known therefore computes with the integers themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hbtool.numerics import rescale
from hbtool.numerics.qtype import INT8, INT16, INT32
from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.quantization.straight_through import Clip, channel_shape
from hbtool.quantization.torch_math import TorchMath

SUM_STEPS = {8: 64.0, 16: 0.25}
"""Output bits -> steps of a fused sum's int16 operand in one step of its output: too fine to matter, and wide enough
(+-512 steps of an int8 output, four times the range of an int16 output) for an operand that the other one cancels."""


def sum_operand_scale(post: FakeQuantizeBase) -> Tensor:
    """Scale of the layer's own int16 operand of a fused sum whose result has the scale of `post`, float32 [1]."""
    return post.scale.detach() / SUM_STEPS[16 if post.dtype.bits > 8 else 8]


@dataclass(frozen=True)
class Deployment:
    """What attach knows of a weighted layer's surroundings.

    Attributes:
        input: fake quantizer that gives the input its scale.
        other: the one of a fused sum's second operand, None without a sum.
        multiplier_bits: significant bits of the march's requantization multiplier.
    """

    input: FakeQuantizeBase
    other: FakeQuantizeBase | None
    multiplier_bits: int


@dataclass(frozen=True)
class WeightIntegers:
    """Constants of the integer operator.

    Attributes:
        weight: int8, layout of the float weight.
        bias: int32 [channels].
        scales: float32 [channels]: s_w.
    """

    weight: Tensor
    bias: Tensor
    scales: Tensor


@torch.no_grad()
def weight_integers(module: Any, input_scale: Tensor) -> WeightIntegers:
    """The constants of a convolution or linear layer (output channels on axis 0), as lowering computes them.

    Args:
        module: a `Weighted` module with a weight fake quantizer.
        input_scale: s_x, float32 [1].
    """
    weight: Tensor = module.weight.detach()
    quantizer: FakeQuantizeBase = module.weight_fake_quant
    channels = weight.shape[0]
    scales = quantizer.scale.detach().float().expand(channels)
    bias = torch.zeros(channels) if module.bias is None else module.bias.detach()
    bias = bias.double().to(weight.device)
    # The file holds the weights rounded to their grid; a scale that is widened below rounds those again.
    shaped = channel_shape(scales, weight.dim(), 0)
    integers = torch.div(weight.float(), shaped).round_().clamp_(quantizer.quant_min, quantizer.quant_max)
    empty = integers.flatten(1).abs().amax(1) == 0
    room = torch.where(empty, 2.0**20, 2.0**30).double()
    needed = bias.abs() / (input_scale.double() * room)
    widened = (needed > scales.double()) | (empty & (needed > 0))
    if bool(widened.any()):
        wide = torch.where(widened, needed, scales.double()).float()
        integers = torch.div(integers * shaped, channel_shape(wide, weight.dim(), 0)).round_().clamp_(-128, 127)
        scales = wide
    step = input_scale.double() * scales.double()
    rounded = (bias / step).round_().clamp_(INT32.min, INT32.max)
    return WeightIntegers(integers.to(torch.int8), rounded.to(torch.int32), scales.contiguous())


def multiplier(input_scale: Tensor, weight_scales: Tensor, output_scale: Any, bits: int) -> Tensor:
    """The requantization multiplier, float32 [channels], on the device of the scales."""
    host = rescale.multiplier(
        input_scale.detach().cpu().numpy(), weight_scales.detach().cpu().numpy(), float(output_scale), bits
    )
    return torch.from_numpy(np.array(host)).to(weight_scales.device)


def can_deploy(module: Any, x: Tensor, other: Tensor | None) -> bool:
    """Whether the layer can compute on integers now: validating, every scale known."""
    plan: Deployment | None = module.__dict__.get("deployment")
    if plan is None or module.training or torch.compiler.is_compiling() or isinstance(module, nn.ConvTranspose2d):
        return False
    quantizers = [plan.input, module.weight_fake_quant, module.activation_post_process]
    if other is not None:
        quantizers.append(plan.other)
    for quantizer in quantizers[:2] + [q for q in quantizers[2:] if q is not None]:
        if quantizer is None or quantizer.flags() != (False, True):
            return False
    if (other is None) != (plan.other is None) or "bn" in module._modules or x.dtype != torch.float32:
        return False
    return _is_plain(module, x.dim())


def _is_plain(module: Any, rank: int) -> bool:
    post = module.activation_post_process
    if isinstance(module, nn.Linear) and rank < 2:
        return False
    full = post is None or (post.scale.numel() == 1 and (post.quant_min, post.quant_max) == _limits(post))
    return full and module.weight_fake_quant.dtype.bits <= 8 and getattr(module, "padding_mode", "zeros") == "zeros"


def _limits(quantizer: FakeQuantizeBase) -> tuple[int, int]:
    kind = INT16 if quantizer.dtype.bits > 8 else INT8
    return kind.min, kind.max


@torch.no_grad()
def deployed_forward(module: Any, x: Tensor, other: Tensor | None, clip: Clip | None) -> Tensor:
    """The dequantized result of the layer's integer operators, fused sum and clamp included."""
    plan: Deployment = module.deployment
    input_scale = plan.input.scale.detach()
    constants = weight_integers(module, input_scale)
    integers, zero = _integers(x, plan.input)
    rank = x.dim() - 2 if isinstance(module, nn.modules.conv._ConvNd) else 0
    total = _accumulate(module, integers, zero, constants.weight)
    axis = 1 if rank else -1
    shape = [1] * total.dim()
    shape[axis] = -1
    total = total + constants.bias.view(shape)
    post: FakeQuantizeBase | None = module.activation_post_process
    if post is None:
        step = (input_scale * constants.scales).view(shape)
        y = total.clamp_(INT32.min, INT32.max).float() * step
        y = y if other is None else y + other
        return y if clip is None else y.clamp(*clip)
    kind = INT16 if post.dtype.bits > 8 else INT8
    low, high = _clamp(post, clip)
    out = _zero_point(post)
    scale = float(post.scale)
    finer = scale if other is None else float(sum_operand_scale(post))
    factor = multiplier(input_scale, constants.scales, finer, plan.multiplier_bits).view(shape)
    math_ = TorchMath()
    if other is None or plan.other is None:
        y = math_.requantize(total, factor, kind, out)
    else:
        own = math_.requantize(total, factor, INT16, 0)
        theirs = float(plan.other.scale)
        ratios = rescale.dyadic_ratios([finer / scale, theirs / scale], INT16)
        terms = [(own, 0, ratios[0]), (*_integers(other, plan.other), ratios[1])]
        y = math_.weighted_sum(terms, kind, out)
    return (y.clamp(low, high).float() - out) * post.scale


def _zero_point(quantizer: FakeQuantizeBase) -> int:
    return quantizer.quant_min - quantizer.limits()[0]


def _integers(x: Tensor, quantizer: FakeQuantizeBase) -> tuple[Tensor, int]:
    """(codes, zero point) of a tensor that already lies on the quantizer's grid."""
    kind = torch.int16 if quantizer.dtype.bits > 8 else torch.int8
    zero = _zero_point(quantizer)
    codes = torch.div(x, quantizer.scale).round_().clamp_(*quantizer.limits())
    return (codes.add_(zero) if zero else codes).to(kind), zero


def _clamp(post: FakeQuantizeBase, clip: Clip | None) -> tuple[int, int]:
    """Real limits as integers, rounded as every real value is."""
    low, high = clip or (-math.inf, math.inf)
    scale = np.float32(float(post.scale))
    zero = _zero_point(post)
    smallest = post.quant_min if low == -math.inf else int(np.rint(np.float32(low) / scale)) + zero
    largest = post.quant_max if high == math.inf else int(np.rint(np.float32(high) / scale)) + zero
    return max(smallest, post.quant_min), min(largest, post.quant_max)


def _accumulate(module: Any, x: Tensor, zero: int, weight: Tensor) -> Tensor:
    if isinstance(module, nn.Linear):
        return TorchMath().matmul(TorchMath().widen(x, zero) if zero else x, weight.t())
    pads: tuple[int, ...] = (0,) * (2 * (weight.dim() - 2))
    if module.padding == "same":
        x = F.pad(x, module._reversed_padding_repeated_twice, value=zero)
    elif not isinstance(module.padding, str):
        pads = (*module.padding, *module.padding)
    return TorchMath().conv(
        x,
        weight,
        zero_point=zero,
        strides=module.stride,
        pads=pads,
        dilations=module.dilation,
        group=module.groups,
    )


def window_of_average(module: nn.Module, x: Tensor) -> int:
    """Elements that every average of the module covers; 0 where windows differ (borders, uneven adaptive windows)."""
    if isinstance(module, nn.AdaptiveAvgPool2d):
        size = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * 2
        sizes = [(n, n if o is None else o) for n, o in zip(x.shape[-2:], size, strict=True)]
        return math.prod(n // o for n, o in sizes) if all(n % o == 0 for n, o in sizes) else 0
    if isinstance(module, nn.AvgPool2d):
        kernel = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,) * 2
        padded = module.padding not in (0, (0, 0)) and not module.count_include_pad
        return 0 if padded or module.ceil_mode or module.divisor_override else math.prod(kernel)
    return 0


@torch.no_grad()
def deployed_average(module: Any, x: Tensor, y: Tensor) -> Tensor | None:
    """The fixed-point result of an average pool whose float result is y; None where it cannot be computed here."""
    plan: Deployment | None = module.__dict__.get("deployment")
    post: FakeQuantizeBase | None = module.activation_post_process
    if plan is None or post is None or module.training or torch.compiler.is_compiling() or y.dtype != torch.float32:
        return None
    if plan.input.flags() != (False, True) or post.flags() != (False, True) or plan.input.dtype.bits > 8:
        return None
    count = window_of_average(module, x)
    if not count or post.scale.numel() != 1 or (post.quant_min, post.quant_max) != _limits(post):
        return None
    scale = plan.input.scale.detach()
    # The float mean is near enough to tell its integer sum.
    total = (y.double() * count / scale.double()).round_()
    share = scale.cpu() / torch.tensor(float(count))
    factor = multiplier(share, torch.ones(1), float(post.scale), plan.multiplier_bits).to(y.device)
    kind = INT16 if post.dtype.bits > 8 else INT8
    out = _zero_point(post)
    return (TorchMath().requantize(total, factor, kind, out).float() - out) * post.scale
