"""Observers for calibration: from the distribution of |x| in a batch to the magnitude worth representing.

All methods work on one histogram of at most `SAMPLES` evenly spaced elements (a full histogram of a MobileNetV2
activation costs more than the network) and evaluate candidates on its bins, so that their cost does not grow with
the number of candidates. Maxima are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hbtool.calibration.kl import divergences
from hbtool.errors import UsageError
from hbtool.quantization import distributed
from hbtool.quantization.observer import (
    ClipObserver,
    FixedScaleObserver,
    MovingAveragePerChannelMinMaxObserver,
    ObserverBase,
)

SAMPLES = 1 << 15
RUN = 16
"""Neighbouring elements that are taken together: 64 bytes of float32."""

__all__ = [
    "ClipObserver",
    "ClipStdObserver",
    "FixedScaleObserver",
    "HistogramObserver",
    "KLObserver",
    "MSEObserver",
    "MinMaxObserver",
    "MixObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "PercentileObserver",
]


class MinMaxObserver(ObserverBase):
    """Moving average of the smallest and largest value, per tensor or per channel by `qscheme`."""


def sample(x: Tensor, limit: int = SAMPLES) -> Tensor:
    """About `limit` elements of x, in evenly spaced runs of one cache line (single elements cost a miss each).

    The distance of the runs shares no small factor with image sizes.
    """
    flat = x.reshape(-1)
    step = -(-flat.numel() // limit)
    if step == 1:
        return flat
    while any(step % p == 0 for p in (2, 3, 5, 7)):
        step += 1
    whole = flat.numel() // RUN * RUN
    return flat[:whole].view(-1, RUN)[::step].reshape(-1)


def magnitude_histogram(x: Tensor, bins: int, share: bool, limit: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """(counts [bins], bin centres [bins]) of nonzero |x| up to its maximum; over all processes if `share`."""
    largest = x.abs().max() if x.numel() <= SAMPLES else torch.stack(torch.aminmax(x)).abs().max()
    if share:
        largest = distributed.all_max(largest.view(1))[0]
    top = max(float(largest), torch.finfo(torch.float32).tiny)
    magnitudes = sample(x, limit).abs().float()
    counts = torch.histc(magnitudes, bins, 0.0, top)
    # Exact zeros (behind a ReLU) need no range and lose nothing.
    counts[0] -= magnitudes.numel() - torch.count_nonzero(magnitudes)
    if share:
        counts = distributed.all_sum(counts)
    centres = (torch.arange(bins, device=x.device, dtype=torch.float32) + 0.5) * (top / bins)
    return counts, centres


def squared_error(counts: Tensor, centres: Tensor, thresholds: Tensor, steps: float) -> Tensor:
    """Sum of squared quantization errors for each threshold [T], from a histogram of magnitudes (zeros left out).

    A value below half a step is rounded to 0 and loses its own square, one inside the range the variance of a uniform
    error, step^2 / 12, one outside its distance to the threshold. Cumulative sums give all thresholds at once.
    """
    count, first, second = (torch.cumsum((counts * centres**k).double(), 0) for k in (0, 1, 2))
    count, first, second = (torch.nn.functional.pad(c, (1, 0)) for c in (count, first, second))
    scales = (thresholds / steps).double()
    inside = torch.searchsorted(centres, thresholds)
    tiny = torch.minimum(torch.searchsorted(centres, (scales / 2).float()), inside)
    rounding = second[tiny] + (count[inside] - count[tiny]) * scales**2 / 12
    top = thresholds.double()
    beyond = count[-1] - count[inside], first[-1] - first[inside], second[-1] - second[inside]
    return rounding + beyond[2] - 2 * top * beyond[1] + top**2 * beyond[0]


class MagnitudeObserver(ObserverBase):
    """Base of the methods that choose a magnitude from a histogram; the range becomes [-magnitude, magnitude].

    With `torch.per_tensor_affine` it is what lies of the values in that range.
    """

    range_only = False
    _below = 1.0
    """How far the range goes below zero, as a share of the magnitude."""

    def __init__(self, bins: int = 2048, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if bins < 2:
            raise UsageError(f"bins is {bins}.", hint="A histogram needs at least 2 bins.")
        self.bins = bins

    def magnitude(self, counts: Tensor, centres: Tensor) -> Tensor:
        """The magnitude worth representing, a scalar tensor."""
        raise NotImplementedError

    def _of(self, x: Tensor) -> Tensor:
        counts, centres = magnitude_histogram(x, self.bins, self.is_sync_quantize)
        return self.magnitude(counts, centres).reshape(1)

    def limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The symmetric range, of the tensor or of each channel."""
        parts = x.unbind(self.ch_axis) if self.per_channel else (x,)
        seen = self._seen_limits(x)
        high = torch.cat([self._of(part) for part in parts])
        return self._inside(seen, high)

    def _seen_limits(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Smallest and largest value where they matter."""
        if not self.affine:
            return None
        low, high = torch.aminmax(x)
        if self.is_sync_quantize:
            low, high = distributed.all_min_max(low.view(1), high.view(1))
        largest = max(float(high), -float(low))
        self._below = min(1.0, max(0.0, -float(low)) / largest) if largest > 0 else 1.0
        return low.view(1).float(), high.view(1).float()

    @staticmethod
    def _inside(seen: tuple[Tensor, Tensor] | None, high: Tensor) -> tuple[Tensor, Tensor]:
        if seen is None:
            return -high, high
        return torch.maximum(seen[0], -high), torch.minimum(seen[1], high)

    def _top(self, centres: Tensor) -> Tensor:
        """The maximum of what was observed (upper edge of the last bin)."""
        return centres[-1] * (self.bins / (self.bins - 0.5))

    def _percentile(self, counts: Tensor, centres: Tensor, percentile: float) -> Tensor:
        total = counts.cumsum(0)
        index = torch.searchsorted(total, total[-1:] * (percentile / 100.0)).clamp(max=self.bins - 1)
        return torch.where(index[0] == self.bins - 1, self._top(centres), centres[index[0]])

    def _steps(self) -> float:
        """Integer steps between 0 and the magnitude."""
        return (self.quant_max - self.quant_min) / (1.0 + self._below)


class PercentileObserver(MagnitudeObserver):
    """The magnitude that `percentile` percent of the elements stay below."""

    def __init__(self, percentile: float = 99.99, bins: int = 2048, **kwargs: Any) -> None:
        super().__init__(bins, **kwargs)
        if not 0 < percentile <= 100:
            raise UsageError(f"percentile is {percentile}.", hint="Give a value above 0, at most 100.")
        self.percentile = percentile

    def magnitude(self, counts: Tensor, centres: Tensor) -> Tensor:
        """The percentile of |x|."""
        return self._percentile(counts, centres, self.percentile)


class MSEObserver(MagnitudeObserver):
    """The magnitude, in hundredths of the maximum, with the least squared error after quantization."""

    REFRESH = 4
    """The search runs on the first batches and then on every such one; between them the share of the maximum stays."""
    ELEMENTS = SAMPLES
    """Elements of a batch that a search looks at."""

    def __init__(self, stride: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 1 <= stride <= 100:
            raise UsageError(f"stride is {stride}.", hint="Give a step between 1 and 100 hundredths.")
        self.stride = stride
        self._batches = 0
        self._shares: Tensor | None = None

    def limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The symmetric range; its share of the batch's maximum is searched anew every few batches."""
        self._batches += 1
        parts = x.unbind(self.ch_axis) if self.per_channel else (x,)
        seen = self._seen_limits(x)
        fresh = self._batches <= self.REFRESH or self._batches % self.REFRESH == 0
        if not fresh and self._shares is not None and self._shares.numel() == len(parts):
            largest = torch.stack([torch.stack(torch.aminmax(part)).abs().max() for part in parts]).float()
            if self.is_sync_quantize:
                largest = distributed.all_max(largest)
            return self._inside(seen, largest * self._shares)
        shares = []
        high = torch.empty(len(parts), device=x.device)
        for index, part in enumerate(parts):
            counts, centres = magnitude_histogram(part, self.bins, self.is_sync_quantize, self.ELEMENTS)
            high[index] = self.magnitude(counts, centres)
            shares.append(high[index] / self._top(centres))
        self._shares = torch.stack(shares)
        return self._inside(seen, high)

    def magnitude(self, counts: Tensor, centres: Tensor) -> Tensor:
        """The best hundredth."""
        shares = torch.arange(100, 0, -self.stride, device=centres.device, dtype=torch.float32) / 100
        candidates = self._top(centres) * shares
        errors = squared_error(counts, centres, candidates, self._steps())
        return candidates[errors.argmin()]


class HistogramObserver(MSEObserver):
    """The newer generation's default: the magnitude with the least squared error on the histogram of the batch."""

    def reset_scale(self) -> None:
        """Search anew at the next batch."""
        self._batches, self._shares = 0, None


class MixObserver(MagnitudeObserver):
    """The one of several percentiles (and the maximum) with the least squared error."""

    percentiles = (99.9, 99.95, 99.99, 99.995, 99.999, 100.0)

    def magnitude(self, counts: Tensor, centres: Tensor) -> Tensor:
        """The best percentile."""
        candidates = torch.stack([self._percentile(counts, centres, p) for p in self.percentiles])
        errors = squared_error(counts, centres, candidates, self._steps())
        return candidates[errors.argmin()]


class KLObserver(MagnitudeObserver):
    """The magnitude whose quantized distribution diverges least from the observed one.

    Args:
        bins: histogram bins.
        update_interval: compute only at every such step; it must not exceed the number of steps.
    """

    def __init__(self, bins: int = 512, update_interval: int = 1, **kwargs: Any) -> None:
        super().__init__(bins, **kwargs)
        if update_interval < 1:
            raise UsageError(f"update_interval is {update_interval}.", hint="Give 1 or more steps.")
        self.update_interval = update_interval
        self._seen = 0

    def observe(self, x: Tensor, clip: tuple[float, float] | None = None) -> bool:
        """Take in one batch; only each `update_interval`-th is computed."""
        self._seen += 1
        return super().observe(x, clip) if self._seen % self.update_interval == 0 else False

    def magnitude(self, counts: Tensor, centres: Tensor) -> Tensor:
        """The least divergence over the number of kept bins."""
        levels = min(int(self._steps() + 0.5), self.bins // 2)
        kept = np.arange(levels, self.bins + 1, max(1, self.bins // 256))
        best = int(kept[np.argmin(divergences(counts.double().cpu().numpy(), kept, levels))])
        return self._top(centres) * (best / self.bins)


class ClipStdObserver(ObserverBase):
    """mean ± std_scale standard deviations, inside the observed range."""

    range_only = False

    def __init__(self, std_scale: float = 6.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not std_scale > 0:
            raise UsageError(f"std_scale is {std_scale}.", hint="Give a multiple above 0.")
        self.std_scale = std_scale

    def limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The clipped range of this batch."""
        low, high = super().limits(x)
        flat = x.transpose(0, self.ch_axis).flatten(1) if self.per_channel else x.reshape(1, -1)
        std, mean = torch.std_mean(flat.float(), dim=1, correction=0)
        return torch.maximum(low, mean - self.std_scale * std), torch.minimum(high, mean + self.std_scale * std)
