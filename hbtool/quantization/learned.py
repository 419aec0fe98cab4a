"""Fake quantizers whose range is a trained parameter: LSQ (learned step size) and PACT (learned clipping)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.errors import UsageError
from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.quantization.straight_through import Clip, channel_shape, clip_values


class LearnedStepFunction(torch.autograd.Function):
    """Quantize-dequantize whose scale has a gradient (Esser et al., Learned Step Size Quantization)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, axis: int, low: int, high: int, factor: float) -> Tensor:
        """Fake-quantized x; `scale` is [1] or [channels] along `axis`."""
        ctx.save_for_backward(x, scale.detach().clone())
        ctx.limits = (axis, low, high, factor)
        step = channel_shape(scale, x.dim(), axis)
        return torch.div(x, step).round_().clamp_(low, high).mul_(step)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and of the scale; the latter is round(v) - v inside, the limit outside."""
        x, scale = ctx.saved_tensors
        axis, low, high, factor = ctx.limits
        (grad,) = grads
        ratio = x / channel_shape(scale, x.dim(), axis)
        rounded = ratio.round().clamp_(low, high)
        inside = (ratio > low - 0.5) & (ratio < high + 0.5)
        slope = torch.where(inside, rounded - ratio, rounded) * grad * factor
        per_scale = slope.reshape(1, -1) if scale.numel() == 1 else slope.transpose(0, axis).flatten(1)
        scale_grad = per_scale.sum(1)
        return grad * inside, scale_grad, None, None, None, None


class _Learned(FakeQuantizeBase):
    """Common part: the scale is initialized by the observer's first batch and trained afterwards."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.activation_post_process.affine:
            raise UsageError(
                f"{type(self).__name__} learns symmetric scales.", hint="Use FakeQuantize for per_tensor_affine."
            )

    def _round(self, x: Tensor, clip: Clip | None) -> Tensor:
        return self.round_with(clip_values(x, clip), self.trained_scale(), self.quant_min)

    def _round_opaque(self, x: Tensor) -> Tensor:
        self._store_scale(self.trained_scale().detach())
        return super()._round_opaque(x)

    def trained_scale(self) -> Tensor:
        """The scale to round with, [1] or [channels]."""
        return self.scale.abs().clamp(min=torch.finfo(torch.float32).eps)

    def round_with(self, x: Tensor, scale: Tensor, low: int) -> Tensor:
        """x fake-quantized with gradients for the learned parameter."""
        raise NotImplementedError


class LearnableFakeQuantize(_Learned):
    """LSQ: the scale itself is trained.

    Args:
        scale: initial scale, before the observer has seen data.
        zero_point: accepted for compatibility, must stay 0.
        use_grad_scaling: multiply the scale's gradient by 1 / sqrt(numel * quant_max), as the paper does.
    """

    def __init__(
        self, scale: float = 1.0, zero_point: float = 0.0, use_grad_scaling: bool = False, **kwargs: Any
    ) -> None:
        self._initial_scale = float(scale)
        super().__init__(**kwargs)
        self.use_grad_scaling = use_grad_scaling

    def _register_scale(self, scale: Tensor) -> None:
        self.scale = nn.Parameter(torch.full_like(scale, self._initial_scale))

    def _observe(self, x: Tensor, clip: Clip | None) -> None:
        # In QAT the observer only gives the first scale; training moves it from there.
        calibrating = not self.flags()[1]
        if calibrating or self.activation_post_process.min_val.numel() == 0:
            super()._observe(x, clip)

    def round_with(self, x: Tensor, scale: Tensor, low: int) -> Tensor:
        """x fake-quantized; the gradient reaches the scale."""
        factor = 1.0
        if self.use_grad_scaling:
            factor = 1.0 / math.sqrt(max(x.numel() // scale.numel(), 1) * self.quant_max)
        axis = self.ch_axis if scale.numel() > 1 else -1
        out: Tensor = LearnedStepFunction.apply(x, scale, axis, low, self.quant_max, factor)  # type: ignore[no-untyped-call]
        return out


class PACTFakeQuantize(_Learned):
    """PACT: the clipping magnitude `alpha` is trained; the scale is alpha over half the number of steps.

    Args:
        alpha: initial magnitude, before the observer has seen data.
    """

    alpha: nn.Parameter

    def __init__(self, alpha: float = 6.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = nn.Parameter(torch.tensor([float(alpha)]))
        with torch.no_grad():
            self.scale.copy_(self.alpha / self._half())

    def _half(self) -> float:
        return (self.quant_max - self.quant_min) / 2

    def _store_scale(self, scale: Tensor, zero_point: Tensor | None = None) -> None:
        super()._store_scale(scale, zero_point)
        if "alpha" in self._parameters:
            with torch.no_grad():
                self.alpha.data = (self.scale * self._half()).clone()

    def _observe(self, x: Tensor, clip: Clip | None) -> None:
        calibrating = not self.flags()[1]
        if calibrating or self.activation_post_process.min_val.numel() == 0:
            super()._observe(x, clip)

    def trained_scale(self) -> Tensor:
        """alpha over half the number of steps."""
        scale = self.alpha.abs().clamp(min=torch.finfo(torch.float32).eps) / self._half()
        with torch.no_grad():
            self.scale.copy_(scale)
        return scale

    def round_with(self, x: Tensor, scale: Tensor, low: int) -> Tensor:
        """x clipped to alpha and fake-quantized; the gradient reaches alpha where x is clipped."""
        out: Tensor = LearnedStepFunction.apply(x, scale, -1, low, self.quant_max, 1.0)  # type: ignore[no-untyped-call]
        return out

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A calibrated model has no alpha: its scale says what alpha is.
        scale = state_dict.get(prefix + "scale")
        if prefix + "alpha" not in state_dict and scale is not None:
            state_dict[prefix + "alpha"] = scale * self._half()
        alpha = state_dict.get(prefix + "alpha")
        if alpha is not None and alpha.shape != self.alpha.shape:
            self.alpha.data = torch.empty_like(alpha)
        super()._load_from_state_dict(state_dict, prefix, *args)


_LearnableFakeQuantize = LearnableFakeQuantize
