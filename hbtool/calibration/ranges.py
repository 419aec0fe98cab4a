"""From statistics to ranges, and from ranges to integer types.

| method | range |
|---|---|
| `max` | smallest and largest element |
| `percentile` | the given fraction of the elements lies inside |
| `kl` | least information lost between the histogram and its quantized form |
| `mse` | least squared error of quantizing the histogram |
| `reader-mse` | least squared error where the value is read: needs the model, see `reader_error` |

Symmetric ranges are [-t, t]. All other methods read statistics that one pass has collected, so trying several costs no
further pass, and all of them are deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hbtool.calibration.histogram import Histogram, magnitude_edges, quantile
from hbtool.calibration.kl import kl_threshold
from hbtool.calibration.mse import mse_range
from hbtool.calibration.observe import Statistics, Wanted
from hbtool.errors import DataError
from hbtool.numerics.qtype import INT8, IntType
from hbtool.numerics.ranges import Range

MethodName = Literal["max", "percentile", "kl", "mse", "reader-mse"]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Method:
    """How a range is found.

    Attributes:
        name: which of the methods above.
        percentile: the fraction that `percentile` keeps, 0..1.
        asymmetric: keep both ends instead of [-t, t].
        per_channel: one range per channel (values without a channel axis get one for the tensor).
        type: the integer type to quantize to; `kl` and `mse` depend on it.
    """

    name: MethodName = "max"
    percentile: float = 0.99995
    asymmetric: bool = False
    per_channel: bool = False
    type: IntType = INT8

    def wanted(self) -> Wanted:
        """The statistics this method reads."""
        counted = self.name not in ("max", "reader-mse")
        return Wanted(histogram=counted, channel_histogram=counted and self.per_channel)


Ranges = Mapping[str, Range]


def range_of(statistics: Statistics, method: Method, channel_axis: int = 1) -> Range:
    """The range of one value.

    Raises:
        DataError: the statistics lack the histogram that the method reads.
    """
    channels = statistics.channel_low
    if not (method.per_channel and channels is not None and statistics.channel_high is not None):
        histogram = statistics.histogram if method.name != "max" else None
        low, high = _one(statistics.low, statistics.high, histogram, 0, method)
        return Range((low,), (high,))
    histogram = statistics.channel_histogram if method.name != "max" else None
    pairs = [
        _one(float(low), float(high), histogram, index, method)
        for index, (low, high) in enumerate(zip(channels, statistics.channel_high, strict=True))
    ]
    return Range(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), channel_axis)


def ranges_of(statistics: Mapping[str, Statistics], method: Method, channel_axis: int = 1) -> dict[str, Range]:
    """The range of every observed value."""
    return {name: range_of(s, method, channel_axis) for name, s in statistics.items()}


def _one(low: float, high: float, histogram: Histogram | None, group: int, method: Method) -> tuple[float, float]:
    """Range of one tensor or channel between its exact extremes."""
    if method.name == "max":
        found = low, high
    elif method.name == "reader-mse":
        raise DataError("reader-mse is no function of statistics", hint="Use search.find_ranges.")
    elif histogram is None:
        raise DataError(f"{method.name} needs a histogram", hint="Observe with Method.wanted().")
    elif method.name == "percentile":
        found = _percentile(histogram, group, method)
    elif method.name == "kl":
        top = max(abs(low), abs(high))
        threshold = kl_threshold(histogram, group, top, _levels(low, high, method))
        found = -threshold, threshold
    else:
        found = mse_range(histogram, group, low, high, method.type, method.asymmetric)
    if method.asymmetric:
        return max(found[0], low), min(found[1], high)
    threshold = min(max(abs(found[0]), abs(found[1])), max(abs(low), abs(high)))
    return -threshold, threshold


def _percentile(histogram: Histogram, group: int, method: Method) -> tuple[float, float]:
    """The quantile of the magnitudes; asymmetric: of each tail, the same number of elements cut on either side."""
    edges = magnitude_edges(histogram.resolution)
    if not method.asymmetric:
        threshold = quantile(histogram.magnitudes(group), edges, method.percentile)
        return -threshold, threshold
    positive, negative = histogram.side(group, False), histogram.side(group, True)
    outside = (1.0 - method.percentile) * (positive.sum() + negative.sum())
    ends = [
        quantile(side, edges, max(0.0, 1.0 - outside / side.sum())) if side.sum() else 0.0
        for side in (negative, positive)
    ]
    return -ends[0], ends[1]


def _levels(low: float, high: float, method: Method) -> int:
    """Steps of the type between 0 and the threshold: all of them where an asymmetric range has one side only."""
    one_sided = method.asymmetric and (low >= 0 or high <= 0)
    return (method.type.max - method.type.min) if one_sided else method.type.max + 1
