"""The range whose quantization has the least squared error over a histogram."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hbtool.calibration.histogram import Histogram
from hbtool.numerics.qtype import IntType

FloatArray = NDArray[np.float64]

_SHRINK = np.linspace(1.0, 0.05, 96)
_LARGEST_POPULATION = 2048


def mse_range(
    histogram: Histogram, group: int, low: float, high: float, type_: IntType, asymmetric: bool
) -> tuple[float, float]:
    """The best of the ranges that shrink [low, high] (symmetric: [-t, t]) in steps of one hundredth.

    Args:
        histogram: counts of the value.
        group: tensor (0) or channel.
        low: smallest element.
        high: largest element.
        type_: the integer type.
        asymmetric: keep both ends instead of [-t, t].
    """
    top = max(abs(low), abs(high))
    if top <= 0:
        return low, high
    low, high = (min(low, 0.0), max(high, 0.0)) if asymmetric else (-top, top)
    values, counts = _population(*histogram.signed(group), low, high)
    scale, zero = _grid(low, high, type_, asymmetric)
    step = scale * _SHRINK[:, None]
    rounded = np.clip(np.rint(values[None, :] / step) + zero, type_.min, type_.max) - zero
    error = ((rounded * step - values[None, :]) ** 2 * counts[None, :]).sum(axis=1)
    best = float(_SHRINK[np.argmin(error)])
    return low * best, high * best


def _grid(low: float, high: float, type_: IntType, asymmetric: bool) -> tuple[float, float]:
    if not asymmetric:
        return high / type_.max, 0.0
    scale = (high - low) / (type_.max - type_.min)
    return scale, float(np.rint(type_.min - low / scale))


def _population(values: FloatArray, counts: FloatArray, low: float, high: float) -> tuple[FloatArray, FloatArray]:
    """Values inside [low, high] with their counts; neighbours are merged where there are very many."""
    values = np.clip(values, low, high)
    if values.size <= _LARGEST_POPULATION:
        return values, counts
    cell = np.floor((values - low) / (high - low) * _LARGEST_POPULATION).astype(np.int64)
    merged = np.bincount(cell, counts).astype(np.float64)
    centre = np.bincount(cell, counts * values) / np.maximum(merged, 1.0)
    return centre[merged > 0], merged[merged > 0]
