"""Observers: what range a tensor takes, batch after batch. Their state is `min_val` and `max_val`, whatever the method.

Because every observer keeps exactly these two buffers, a calibrated model's state dict loads into a QAT model of
the same network. The scale of a range is its largest magnitude over half the number of steps: for int8
max_abs / 127.5 (reference: the published (range, scale) pairs, all reproduced). With `torch.per_tensor_affine`
an int8 range gets a zero point, so that what is never negative keeps all 8 bits (an extension; the published tool is
symmetric).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.dtype import DTypeLike, as_dtype
from hbtool.errors import UsageError
from hbtool.numerics import qtype
from hbtool.quantization import distributed

_SMALLEST_SCALE = float(torch.finfo(torch.float32).eps)


class PartialFactory:
    """`Class.with_args(...)`: a class with some arguments fixed; call it to build, `with_args` again to add."""

    def __init__(self, factory: Any, **kwargs: Any) -> None:
        self.p = partial(factory, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Build the object."""
        return self.p(*args, **kwargs)

    def with_args(self, **kwargs: Any) -> PartialFactory:
        """The same with more arguments fixed."""
        return PartialFactory(self.p, **kwargs)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.p.keywords.items())
        return f"{self.p.func.__name__}.with_args({arguments})"


class ObserverBase(nn.Module):
    """Keeps the range of what it saw as an exponential moving average: v += averaging_constant * (new - v).

    Args:
        averaging_constant: share of the newest batch; 0 freezes the range once there is one.
        ch_axis: channel axis of a per-channel range, -1 for one range.
        dtype: `qint8`, `qint16` or their names.
        qscheme: torch.per_tensor_symmetric, torch.per_channel_symmetric, or torch.per_tensor_affine (int8 of full
            range; wider types are symmetric under it too).
        quant_min: smallest integer, None for the dtype's.
        quant_max: largest integer, None for the dtype's.
        is_sync_quantize: whether processes share their statistics; None and True share whenever there are several.
        factory_kwargs: accepted for compatibility.
    """

    min_val: Tensor
    max_val: Tensor
    range_only = True
    """Whether the range of clip(x) follows from the range of x (no distribution needed)."""
    learns = True
    """Whether batches change the scale at all."""

    def __init__(
        self,
        averaging_constant: float = 0.01,
        ch_axis: int = -1,
        dtype: DTypeLike = "qint8",
        qscheme: torch.qscheme = torch.per_tensor_symmetric,
        quant_min: int | None = None,
        quant_max: int | None = None,
        is_sync_quantize: bool | None = None,
        factory_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if qscheme not in (torch.per_tensor_symmetric, torch.per_channel_symmetric, torch.per_tensor_affine):
            raise UsageError(
                f"{qscheme} is not supported.",
                hint="Use per_tensor_symmetric, per_channel_symmetric or per_tensor_affine.",
            )
        if not 0 <= averaging_constant <= 1:
            raise UsageError(f"averaging_constant is {averaging_constant}.", hint="Give a share between 0 and 1.")
        self.dtype = as_dtype(dtype)
        self.qscheme = qscheme
        self.per_channel = qscheme == torch.per_channel_symmetric
        self.ch_axis = (max(ch_axis, 0)) if self.per_channel else -1
        self.averaging_constant = averaging_constant
        self.quant_min = self.dtype.min if quant_min is None else quant_min
        self.quant_max = self.dtype.max if quant_max is None else quant_max
        self.is_sync_quantize = is_sync_quantize is not False
        self.register_buffer("min_val", torch.tensor([]))
        self.register_buffer("max_val", torch.tensor([]))

    @classmethod
    def with_args(cls, **kwargs: Any) -> PartialFactory:
        """This class with arguments fixed, for a qconfig."""
        return PartialFactory(cls, **kwargs)

    @property
    def affine(self) -> bool:
        """Whether the range gets a zero point."""
        full = (self.quant_min, self.quant_max) == (qtype.INT8.min, qtype.INT8.max)
        return self.qscheme == torch.per_tensor_affine and full

    def limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest value to represent for this batch, each [1] or [channels]."""
        if not self.per_channel:
            low, high = torch.aminmax(x)
            return low.view(1), high.view(1)
        flat = x.transpose(0, self.ch_axis).flatten(1) if self.ch_axis else x.flatten(1)
        low, high = torch.aminmax(flat, dim=1)
        return low, high

    @torch.no_grad()
    def observe(self, x: Tensor, clip: tuple[float, float] | None = None) -> bool:
        """Take in one batch, clipped to `clip`. Returns whether the range changed."""
        frozen = self.averaging_constant == 0 and self.min_val.numel() > 0
        if frozen or x.numel() == 0:
            return False
        low, high = self.limits(x.detach())
        if self.is_sync_quantize:
            low, high = distributed.all_min_max(low, high)
        if clip is not None:
            low, high = low.clamp(*clip), high.clamp(*clip)
        if self.min_val.numel() == 0:
            self.min_val, self.max_val = low.float().clone(), high.float().clone()
        else:
            self.min_val.lerp_(low.float(), self.averaging_constant)
            self.max_val.lerp_(high.float(), self.averaging_constant)
        return True

    def forward(self, x: Tensor) -> Tensor:
        """Take in one batch and pass it on."""
        self.observe(x)
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """(scale float32, zero point int64), each [1] or [channels]; scale 1 before any data."""
        if self.min_val.numel() == 0:
            one = torch.ones(1, device=self.min_val.device)
            return one, torch.zeros(1, dtype=torch.int64, device=self.min_val.device)
        if self.affine:
            q = qtype.asymmetric(float(self.min_val), float(self.max_val), qtype.INT8)
            return self.min_val.new_tensor([q.scale]), torch.tensor([q.zero_point], device=self.min_val.device)
        largest = torch.maximum(self.min_val.neg(), self.max_val)
        # The clamp keeps an all-zero tensor's scale finite.
        scale = largest.div_((self.quant_max - self.quant_min) / 2).clamp_(min=_SMALLEST_SCALE)
        return scale, torch.zeros_like(scale, dtype=torch.int64)

    def rescale(self, factor: float) -> bool:
        """The dtype changed: returns whether a scale that was given moved by `factor`."""
        return False

    def reset(self) -> None:
        """Forget everything seen."""
        self.min_val = self.min_val.new_empty(0)
        self.max_val = self.max_val.new_empty(0)

    def extra_repr(self) -> str:
        """The range, as PyTorch prints tensors."""
        return f"min_val={self.min_val}, max_val={self.max_val}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("min_val", "max_val"):
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor) and value.shape != getattr(self, name).shape:
                setattr(self, name, getattr(self, name).new_empty(value.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


class MovingAverageMinMaxObserver(ObserverBase):
    """Moving average of the smallest and largest value."""


MovingAveragePerTensorMinMaxObserver = MovingAverageMinMaxObserver


class MovingAveragePerChannelMinMaxObserver(ObserverBase):
    """Moving average of the smallest and largest value of each channel."""

    def __init__(
        self,
        averaging_constant: float = 0.01,
        ch_axis: int = 0,
        dtype: DTypeLike = "qint8",
        qscheme: torch.qscheme = torch.per_channel_symmetric,
        **kwargs: Any,
    ) -> None:
        super().__init__(averaging_constant, max(ch_axis, 0), dtype, torch.per_channel_symmetric, **kwargs)


class MinMaxObserver(ObserverBase):
    """Smallest and largest value ever seen."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.pop("averaging_constant", None)
        super().__init__(averaging_constant=1.0, **kwargs)

    def limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The range so far, widened by this batch."""
        low, high = super().limits(x)
        if self.min_val.numel() == 0:
            return low, high
        return torch.minimum(low, self.min_val), torch.maximum(high, self.max_val)


class PerChannelMinMaxObserver(MinMaxObserver):
    """Smallest and largest value of each channel ever seen."""

    def __init__(self, ch_axis: int = 0, **kwargs: Any) -> None:
        kwargs["qscheme"] = torch.per_channel_symmetric
        super().__init__(ch_axis=max(ch_axis, 0), **kwargs)


class FixedScaleObserver(ObserverBase):
    """A scale that data never change.

    Args:
        scale: the real value of one integer step.
        zero_point: must be 0.
    """

    learns = False

    def __init__(self, scale: float = 1.0, zero_point: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not scale > 0:
            raise UsageError(f"the fixed scale is {scale}.", hint="Give a scale above 0, such as 1 / 128.")
        if zero_point:
            raise UsageError(f"the fixed zero point is {zero_point}.", hint="The BPU needs zero_point=0.")
        self.fixed_scale = float(scale)

    def observe(self, x: Tensor, clip: tuple[float, float] | None = None) -> bool:
        """Nothing to learn."""
        return False

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The fixed scale."""
        scale = torch.full((1,), self.fixed_scale, device=self.min_val.device)
        return scale, torch.zeros(1, dtype=torch.int64, device=self.min_val.device)

    def rescale(self, factor: float) -> bool:
        """The fixed scale keeps its range."""
        self.fixed_scale *= factor
        return True

    def extra_repr(self) -> str:
        """The scale."""
        return f"scale={self.fixed_scale}"


class ClipObserver(ObserverBase):
    """Moving average of the smallest and largest value, kept inside fixed limits.

    Args:
        xmin: lowest value to represent.
        xmax: highest value to represent.
    """

    def __init__(self, xmin: float = -1.0, xmax: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not xmin < xmax:
            raise UsageError(f"clip limits {xmin} .. {xmax} hold nothing.", hint="Give xmin below xmax.")
        self.xmin, self.xmax = float(xmin), float(xmax)

    def limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """This batch's range inside the limits."""
        low, high = super().limits(x)
        return low.clamp(self.xmin, self.xmax), high.clamp(self.xmin, self.xmax)


class NoopObserver(ObserverBase):
    """Sees nothing: the tensor keeps its scale."""

    learns = False

    def observe(self, x: Tensor, clip: tuple[float, float] | None = None) -> bool:
        """Nothing to learn."""
        return False
