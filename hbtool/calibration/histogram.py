"""Histograms whose bins are known before the data: sign, exponent and leading mantissa bits of float32.

A bin is the upper half of the float's bits, so finding it costs no arithmetic, counts from any samples add up exactly
in any order, and no range has to be guessed or stretched while the data stream by. A bin is 2^-7 of its octave wide
(0.4 to 0.8 % of the value).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_HIGH_HALF = 1 if sys.byteorder == "little" else 0
_EXPONENT_BITS = 8
_MANTISSA_BITS = 7
_SIGN = 1 << (_EXPONENT_BITS + _MANTISSA_BITS)
# Smaller magnitudes count as zero, larger ones to the last bin.
_LOWEST_EXPONENT = 127 - 40
_HIGHEST_EXPONENT = 127 + 24


@dataclass(frozen=True)
class Resolution:
    """How fine the bins are.

    Attributes:
        mantissa_bits: bins per octave as a power of two; 7 is the finest.
    """

    mantissa_bits: int = _MANTISSA_BITS

    @property
    def _drop(self) -> int:
        return _MANTISSA_BITS - self.mantissa_bits

    @property
    def first(self) -> int:
        """Position of the smallest magnitude that is not counted as zero."""
        return (_LOWEST_EXPONENT << _MANTISSA_BITS) >> self._drop

    @property
    def half(self) -> int:
        """Bins of one sign, the first of them for zero."""
        return (((_HIGHEST_EXPONENT << _MANTISSA_BITS) >> self._drop) - self.first) + 1

    @property
    def bins(self) -> int:
        """Bins of both signs: positive ones first, then negative ones, each from zero outwards."""
        return 2 * self.half


@lru_cache(maxsize=8)
def magnitude_edges(resolution: Resolution) -> FloatArray:
    """Edges of the magnitude bins `[half]`: bin 0 is zero itself, bin i spans edges[i-1] to edges[i]."""
    drop = _MANTISSA_BITS - resolution.mantissa_bits
    positions = (np.arange(resolution.half) + resolution.first) << drop
    bits = positions.astype(np.uint32) << np.uint32(16)
    edges = bits.view(np.float32).astype(np.float64)
    edges.setflags(write=False)
    return edges


class Histogram:
    """Counts of values by sign and magnitude, for one group (a tensor) or several (its channels)."""

    def __init__(self, resolution: Resolution | None = None, groups: int = 1) -> None:
        self.resolution = resolution or Resolution()
        self.groups = groups
        self._counts = np.zeros(groups * self.resolution.bins, np.int64)

    def part(self, group: int) -> Histogram:
        """One group as a histogram of its own, on the same counts."""
        found = Histogram(self.resolution, groups=0)
        found.groups = 1
        found._counts = self._counts.reshape(self.groups, -1)[group]
        return found

    def add(self, values: NDArray[np.float32], group: NDArray[np.integer] | None = None) -> None:
        """Count values (any shape); `group` names the group of each, flat, where there are several."""
        upper = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint16)[_HIGH_HALF::2]
        position = _bin_of_upper_half(self.resolution).take(upper)
        if group is not None:
            position += group * self.resolution.bins
        np.add.at(self._counts, position, 1)

    @property
    def counts(self) -> IntArray:
        """Counts `[groups, bins]`: positive magnitudes from zero outwards, then negative ones."""
        return self._counts.reshape(self.groups, self.resolution.bins)

    def signed(self, group: int = 0) -> tuple[FloatArray, FloatArray]:
        """Bins with content, from the most negative to the most positive: their middles and counts."""
        edges = magnitude_edges(self.resolution)
        middles = np.concatenate([[0.0], (edges[:-1] + edges[1:]) / 2])
        half = self.resolution.half
        counts = self.counts[group]
        ordered = np.concatenate([counts[:half:-1], [counts[0] + counts[half]], counts[1:half]])
        positions = np.concatenate([-middles[:0:-1], middles])
        held = ordered > 0
        return positions[held], ordered[held].astype(np.float64)

    def magnitudes(self, group: int = 0) -> FloatArray:
        """Counts `[half]` of |value|, in the bins of `magnitude_edges`."""
        half = self.resolution.half
        return (self.counts[group, :half] + self.counts[group, half:]).astype(np.float64)

    def side(self, group: int, negative: bool) -> FloatArray:
        """Counts `[half]` of the magnitudes of one sign; every zero (0.0 and -0.0) counts as positive."""
        half = self.resolution.half
        both = self.counts[group].reshape(2, half).astype(np.float64)
        both[0, 0] += both[1, 0]
        both[1, 0] = 0.0
        return np.asarray(both[int(negative)])


@lru_cache(maxsize=8)
def _bin_of_upper_half(resolution: Resolution) -> IntArray:
    """The bin of every upper half of a float32 `[65536]`; infinities and NaN are in the last bin of their sign."""
    raw = np.arange(2 * _SIGN)
    magnitude = (raw & (_SIGN - 1)) >> (_MANTISSA_BITS - resolution.mantissa_bits)
    inside = np.clip(magnitude - resolution.first + 1, 0, resolution.half - 1)
    return np.asarray(inside + np.where(raw >= _SIGN, resolution.half, 0), np.int64)


def quantile(counts: FloatArray, edges: FloatArray, fraction: float) -> float:
    """The magnitude below which `fraction` of the counts lie, linear inside a bin; 0 where nothing was counted."""
    total = counts.sum()
    if total == 0:
        return 0.0
    cumulative = np.cumsum(counts)
    target = fraction * total
    index = int(np.searchsorted(cumulative, target, side="left"))
    if index == 0:
        return 0.0
    index = min(index, counts.size - 1)
    inside = (target - cumulative[index - 1]) / counts[index] if counts[index] else 1.0
    return float(edges[index - 1] + np.clip(inside, 0.0, 1.0) * (edges[index] - edges[index - 1]))


def linear(counts: FloatArray, edges: FloatArray, top: float, bins: int) -> FloatArray:
    """The same counts over `bins` equal bins of [0, top], each bin's content spread evenly over its width.

    What lies above `top` (bins are wider than the step between top and the next value) counts to the last bin.
    """
    cumulative = np.cumsum(counts)
    at = np.interp(np.linspace(0.0, top, bins + 1), edges, cumulative)
    at[0], at[-1] = 0.0, cumulative[-1]
    return np.diff(at)
