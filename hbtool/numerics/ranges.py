"""The real range that a value's integers must cover, and what integers over it mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hbtool.numerics.qtype import INT8, IntType, QParams, asymmetric, per_channel, symmetric

SMALLEST_CHANNEL = 1e-3
"""A channel that hardly fires keeps this part of the widest channel's range: its scale must not vanish."""

BALANCE = 0.5
"""How far the scales of channels follow their own ranges, 0..1. What follows moves into the weights that read them,
where one scale serves all input channels: half of the (logarithmic) spread to each side loses least (cosine of
MobileNetV2's logits: 0.953 with 1, 0.968 with 0.5, 0.967 with 0.25)."""


@dataclass(frozen=True)
class Range:
    """What a value's integers must cover.

    Attributes:
        low: one element, or one per index of `axis`.
        high: likewise.
        axis: the channel axis, None for one range per tensor.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    axis: int | None = None

    @property
    def threshold(self) -> float:
        """Largest magnitude inside (of the widest channel)."""
        return float(max(abs(v) for v in (*self.low, *self.high)))

    def per_tensor(self) -> Range:
        """The range that covers all channels."""
        return Range((min(self.low),), (max(self.high),))


def to_qparams(range_: Range, type_: IntType = INT8, asymmetric_: bool = False) -> QParams:
    """What integers of `type_` mean over a range: full range of the type, 0.0 exactly representable.

    Asymmetric quantization exists per tensor and for int8 only; elsewhere the range is taken as symmetric.
    """
    if range_.axis is not None:
        magnitudes = np.maximum(np.abs(range_.low), np.abs(range_.high))
        widest = magnitudes.max()
        wide_enough = np.maximum(magnitudes, widest * SMALLEST_CHANNEL)
        return per_channel(wide_enough**BALANCE * widest ** (1.0 - BALANCE), type_, range_.axis)
    if asymmetric_ and type_ is INT8:
        return asymmetric(range_.low[0], range_.high[0], type_)
    return symmetric(range_.threshold, type_)
