"""Fake quantizers: modules that round a float tensor to what integers can represent, with a trainable gradient."""

from __future__ import annotations

import logging
import warnings
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.dtype import DTypeLike, as_dtype
from hbtool.errors import UsageError
from hbtool.qat_mode import ConsistencyStrategy
from hbtool.quantization.observer import (
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    ObserverBase,
    PartialFactory,
)
from hbtool.quantization.straight_through import (
    Clip,
    FakeQuantizeFunction,
    channel_shape,
    clip_values,
    fake_quantize_op,
)

_log = logging.getLogger(__name__)


class FakeQuantState(Enum):
    """What the fake quantizers of a model do."""

    QAT = "qat"
    CALIBRATION = "calibration"
    VALIDATION = "validation"
    _FLOAT = "float"


_FLAGS = {
    FakeQuantState.QAT: (True, True),
    FakeQuantState.CALIBRATION: (True, False),
    FakeQuantState.VALIDATION: (False, True),
    FakeQuantState._FLOAT: (False, False),
}
"""(observer enabled, fake quant enabled)"""


class FakeQuantizeBase(nn.Module):
    """Flags, scale and observer of a fake quantizer; sub-classes say how x is rounded.

    Args:
        observer: observer class, built with `observer_kwargs`.
        saturate: zero the gradient outside the range (None: yes).
        in_place: accepted for compatibility; the input is never written.
        compat_mask: accepted for compatibility; no mask is kept.
        channel_len: number of channels of a per-channel scale before any data.
        start: the state in which a new fake quantizer is.
    """

    fake_quant_enabled: Tensor
    observer_enabled: Tensor
    scale: Tensor
    zero_point: Tensor
    activation_post_process: ObserverBase

    def __init__(
        self,
        observer: Any = MovingAverageMinMaxObserver,
        saturate: bool | None = None,
        in_place: bool = False,
        compat_mask: bool = True,
        channel_len: int = 1,
        start: FakeQuantState = FakeQuantState.QAT,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__()
        self.saturate = saturate is not False
        self.activation_post_process = observer(**observer_kwargs)
        if not isinstance(self.activation_post_process, ObserverBase):
            raise UsageError(f"{observer} does not build an observer.", hint="Give a class of hbtool's observers.")
        made = self.activation_post_process
        self.dtype, self.qscheme, self.ch_axis = made.dtype, made.qscheme, made.ch_axis
        self.asked_dtype = made.dtype  # another one where the user wished for what no BPU has
        self.quant_min, self.quant_max = made.quant_min, made.quant_max
        self.is_per_channel = made.per_channel
        scale, zero_point = made.calculate_qparams()
        self.register_buffer("fake_quant_enabled", torch.ones(1, dtype=torch.uint8))
        self.register_buffer("observer_enabled", torch.ones(1, dtype=torch.uint8))
        self._register_scale(scale.expand(channel_len).clone() if channel_len > 1 else scale.clone())
        self.register_buffer("zero_point", zero_point.expand(self.scale.numel()).clone())
        self.power_of_two = ConsistencyStrategy.get_consistency_level() >= (2 if self.is_per_channel else 1)
        self._seen_weights: tuple[int, int, int] | None = None
        self._zero = 0
        self._zero_key: tuple[int, int] = (0, 0)
        self._flags = (True, True)
        self._flag_key: tuple[int, ...] = ()
        self.set_state(start)

    def _register_scale(self, scale: Tensor) -> None:
        self.register_buffer("scale", scale)

    @classmethod
    def with_args(cls, **kwargs: Any) -> PartialFactory:
        """This class with arguments fixed, for a qconfig."""
        return PartialFactory(cls, **kwargs)

    def set_state(self, state: FakeQuantState) -> None:
        """Observe and round, or not."""
        observe, quantize = _FLAGS[state]
        self._seen_weights = None
        self.enable_observer(observe)
        self.enable_fake_quant(quantize)

    def enable_observer(self, enabled: bool = True) -> None:
        """Whether batches change the range."""
        self.observer_enabled.fill_(int(enabled))

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Whether the output is rounded."""
        self.fake_quant_enabled.fill_(int(enabled))

    def disable_observer(self) -> None:
        """Batches no longer change the range."""
        self.enable_observer(False)

    def disable_fake_quant(self) -> None:
        """The output is the input."""
        self.enable_fake_quant(False)

    def flags(self) -> tuple[bool, bool]:
        """(observer enabled, fake quant enabled), read from the buffers only after they changed (no device sync)."""
        if torch.compiler.is_compiling():
            return self._flags
        observe, quantize = self.observer_enabled, self.fake_quant_enabled
        # A copy of a module counts versions from 0 again: the tensors themselves are part of the key.
        key = (id(observe), observe._version, id(quantize), quantize._version)
        if key != self._flag_key:
            self._flags = (bool(observe), bool(quantize))
            self._flag_key = key
        return self._flags

    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer that x / scale is rounded to: the type's, counted from the zero point.

        A zero point is nothing but that shift, so everything that rounds takes these limits and no zero point.
        """
        if not self.activation_post_process.affine:
            return self.quant_min, self.quant_max
        key = (id(self.zero_point), self.zero_point._version)
        if key != self._zero_key and not torch.compiler.is_compiling():
            self._zero, self._zero_key = int(self.zero_point), key
        return self.quant_min - self._zero, self.quant_max - self._zero

    def set_qparams(self, scale: Tensor | float, zero_point: Tensor | None = None) -> None:
        """Use this scale (float32 [1] or [channels]) from now on; an observer that still runs may move it again."""
        value = torch.as_tensor(scale, dtype=torch.float32, device=self.scale.device).reshape(-1)
        affine = zero_point is not None and self.activation_post_process.affine
        self._store_scale(value, zero_point if affine else None)
        half = (self.quant_max - self.quant_min) / 2
        low, high = self.limits() if affine else (-half, half)
        self.activation_post_process.max_val = self.scale.detach() * high
        self.activation_post_process.min_val = self.scale.detach() * low

    @torch.no_grad()
    def adopt_range(self, low: Tensor, high: Tensor) -> None:
        """Take over what another observer saw; the scale follows by this one's scheme."""
        seen = self.activation_post_process
        seen.min_val, seen.max_val = (v.detach().clone().to(self.scale.device) for v in (low, high))
        self._store_scale(*seen.calculate_qparams())

    def set_dtype(self, dtype: DTypeLike) -> None:
        """Another number of bits for the same real range (before any data or after)."""
        new = as_dtype(dtype)
        factor = (self.dtype.max - self.dtype.min) / (new.max - new.min)
        observer = self.activation_post_process
        for holder in (self, observer):
            holder.dtype, holder.quant_min, holder.quant_max = new, new.min, new.max
        if observer.qscheme == torch.per_tensor_affine and observer.min_val.numel():
            self._store_scale(*observer.calculate_qparams())
        elif observer.rescale(factor) or observer.min_val.numel():
            self._store_scale(self.scale.detach() * factor)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """(scale, zero point)."""
        return self.scale, self.zero_point

    def was_observed(self) -> bool:
        """Whether the scale comes from data or from the user (not the initial 1)."""
        return not self.activation_post_process.learns or self.activation_post_process.min_val.numel() > 0

    @torch.no_grad()
    def _store_scale(self, scale: Tensor, zero_point: Tensor | None = None) -> None:
        if self.power_of_two and self.activation_post_process.learns:
            # Up, so that the range stays covered.
            scale = torch.exp2(torch.ceil(torch.log2(scale)))
        if scale.shape == self.scale.shape:
            self.scale.copy_(scale)
        else:
            self.scale.data = scale.detach().clone()
            self.zero_point = torch.zeros(scale.numel(), dtype=torch.int64, device=scale.device)
        if zero_point is not None:
            self.zero_point.copy_(zero_point.reshape(-1))

    def _is_known(self, x: Tensor) -> bool:
        """Whether calibration has seen exactly these weights: averaging what does not change changes nothing."""
        if not isinstance(x, nn.Parameter) or self.flags()[1]:
            return False
        key = (id(x), x.data_ptr(), x._version)
        if key == self._seen_weights and self.activation_post_process.min_val.numel():
            return True
        self._seen_weights = key
        return False

    def _observe(self, x: Tensor, clip: Clip | None) -> None:
        if self._is_known(x):
            return
        watched = x.detach()
        if clip is not None and not self.activation_post_process.range_only:
            watched, clip = clip_values(watched, clip), None
        if self.activation_post_process.observe(watched, clip):
            self._store_scale(*self.activation_post_process.calculate_qparams())

    def forward(self, x: Tensor, clip: Clip | None = None) -> Tensor:
        """Observe, update the scale, round with the new scale; with `clip`, do all that to x clipped.

        Callers that pass `clip` give x away: it may be overwritten.
        """
        observe, quantize = self.flags()
        if observe and not quantize and clip is not None and not torch.compiler.is_compiling():
            # x is given away: clipping it first saves the observer a copy.
            x, clip = clip_values(x, clip, in_place=True), None
        if observe and not torch.compiler.is_compiling():
            self._observe(x, clip)
        if not quantize:
            return clip_values(x, clip, in_place=not torch.compiler.is_compiling())
        if torch.compiler.is_compiling():
            return self._round_opaque(clip_values(x, clip))
        return self._round(x, clip)

    def _round(self, x: Tensor, clip: Clip | None) -> Tensor:
        raise NotImplementedError

    def _round_opaque(self, x: Tensor) -> Tensor:
        """The rounding as one operator, for the exporters."""
        bits = 8 if self.dtype.bits <= 8 else 16
        axis = self.ch_axis if self.scale.numel() > 1 else -1
        out: Tensor = fake_quantize_op(x, self.scale.detach(), bits, *self.limits(), axis)
        return out

    def extra_repr(self) -> str:
        """Flags, type and scale in three lines, as published prints show them."""
        return (
            f"fake_quant_enabled={self.fake_quant_enabled}, observer_enabled={self.observer_enabled},\n"
            f"quant_min={self.quant_min}, quant_max={self.quant_max}, dtype={self.dtype}, qscheme={self.qscheme}, "
            f"ch_axis={self.ch_axis},\nscale={self.scale.detach()}, zero_point={self.zero_point}"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("scale", "zero_point"):
            value = state_dict.get(prefix + name)
            own = getattr(self, name)
            if isinstance(value, Tensor) and value.shape != own.shape:
                own.data = own.data.new_empty(value.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
        zero_point = state_dict.get(prefix + "zero_point")
        if isinstance(zero_point, Tensor) and bool(zero_point.any()) and not self.activation_post_process.affine:
            # From an affine model into a symmetric one: the range is what both understand.
            seen = f"{prefix}activation_post_process"
            self.adopt_range(state_dict[f"{seen}.min_val"], state_dict[f"{seen}.max_val"])
        if isinstance(self.activation_post_process, ObserverBase) and not self.activation_post_process.learns:
            scale = self.activation_post_process.calculate_qparams()[0]
            if self.activation_post_process.__class__.__name__ == "FixedScaleObserver":
                self._store_scale(scale)


class FakeQuantize(FakeQuantizeBase):
    """Rounds x to scale * clamp(round_half_even(x / scale), *limits()); the gradient goes straight through."""

    def _round(self, x: Tensor, clip: Clip | None) -> Tensor:
        scale = channel_shape(self.scale, x.dim(), self.ch_axis)
        if clip is not None and (x.is_cuda or scale.numel() > 1):
            x, clip = clip_values(x, clip), None
        out: Tensor = FakeQuantizeFunction.apply(x, scale, *self.limits(), clip, self.saturate)  # type: ignore[no-untyped-call]
        return out


class CalibFakeQuantize(FakeQuantize):
    """A fake quantizer that starts by observing only: what `get_default_calib_qconfig()` asks for."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("start", FakeQuantState.CALIBRATION)
        super().__init__(**kwargs)


def set_fake_quantize(model: nn.Module, state: FakeQuantState) -> None:
    """Put every fake quantizer of `model` into `state`. Set `model.train()` or `.eval()` first.

    Raises:
        UsageError: `state` is not a `FakeQuantState`.
    """
    if not isinstance(state, FakeQuantState):
        raise UsageError(f"{state!r} is not a FakeQuantState.", hint="Use FakeQuantState.CALIBRATION, .QAT, ...")
    found = 0
    for module in model.modules():
        if isinstance(module, FakeQuantizeBase):
            module.set_state(state)
            found += 1
    if not found:
        _log.warning("set_fake_quantize: the model has no fake quantizer; was it prepared?")
    if model.training != (state is FakeQuantState.QAT):
        wanted = "train()" if state is FakeQuantState.QAT else "eval()"
        warnings.warn(f"{state.name} state is meant for a model in {wanted} mode; call it first.", stacklevel=2)


class FakeCast(nn.Module):
    """Rounds a float tensor to another float type and back (what a float16 part of a model computes).

    Args:
        dtype: torch.float16 or torch.bfloat16.
    """

    def __init__(self, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """x in float32 with the precision of `dtype`."""
        return x.to(self.dtype).to(x.dtype)


def update_scale_by_qtype(scale: Tensor, old_dtype: DTypeLike, new_dtype: DTypeLike) -> Tensor:
    """The scale that represents the same range in another quantized dtype."""
    old, new = as_dtype(old_dtype), as_dtype(new_dtype)
    return scale * ((old.max - old.min) / (new.max - new.min))


_per_channel = {"observer": MovingAveragePerChannelMinMaxObserver, "ch_axis": 0}
default_8bit_fake_quant = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, dtype="qint8")
default_16bit_fake_quant = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, dtype="qint16")
default_4bit_fake_quant = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, dtype="qint4")
default_uint4_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver, dtype="qint8", quant_min=0, quant_max=15
)
default_calib_fake_quant = CalibFakeQuantize.with_args(observer=MovingAverageMinMaxObserver, dtype="qint8")
default_weight_8bit_fake_quant = FakeQuantize.with_args(dtype="qint8", **_per_channel)
default_weight_4bit_fake_quant = FakeQuantize.with_args(dtype="qint4", **_per_channel)
per_channel_8bit_fake_quant = default_weight_8bit_fake_quant
