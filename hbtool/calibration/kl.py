"""The threshold that loses least information: Kullback-Leibler divergence between a histogram and its quantized form.

For a threshold t, P is the histogram of |x| up to t with everything beyond counted to its last bin, and Q is the
histogram without what lies beyond, quantized to the type's levels and spread back over the bins that hold anything
(S. Migacz, "8-bit Inference with TensorRT", 2017). With cumulative sums of h and h·log h, the divergence of all
thresholds is one matrix expression instead of a loop over bins.

The divergence knows shares, not distances: where most elements are alike (the background of an image, what a GELU
leaves of negative numbers) it would keep these few levels and clip all that carries the signal. A threshold therefore
may cause at most twice the squared error of keeping the maximum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hbtool.calibration.histogram import Histogram, linear, magnitude_edges

FloatArray = NDArray[np.float64]

BINS = 1024
"""Bins over [0, max] (hb_mapper.md 1.4.1: num_bin)."""
MAX_BINS = 16384
"""More bins than this are never made, so types with as many levels keep their maximum (max_num_bin)."""
MOST_ERROR = 2.0
"""Squared error that a threshold may cause, as a multiple of that of keeping the maximum."""
_CANDIDATES = 224
_TINY = 1e-12


def kl_threshold(histogram: Histogram, group: int, top: float, levels: int, bins: int = BINS) -> float:
    """The threshold in (0, top] of least divergence.

    Args:
        histogram: counts of the value.
        group: tensor (0) or channel.
        top: largest magnitude seen.
        levels: steps of the integer type between 0 and the threshold (128 for symmetric int8).
        bins: bins of the linear histogram; doubled until every level has at least four.

    Returns:
        The threshold; `top` itself where the type has too many levels for a histogram to tell.
    """
    while bins < 4 * levels:
        bins *= 2
    if bins > MAX_BINS or top <= 0:
        return top
    magnitudes = histogram.magnitudes(group)
    magnitudes[0] = 0.0  # zero is exact under every threshold; a Relu's zeros would only drown the rest
    counts = linear(magnitudes, magnitude_edges(histogram.resolution), top, bins)
    sizes = np.unique(np.linspace(levels, bins, _CANDIDATES).astype(np.int64))
    divergence = divergences(counts, sizes, levels)
    error = _squared_errors(counts, sizes, levels)
    divergence[error > MOST_ERROR * error[-1]] = np.inf
    best = int(sizes[len(sizes) - 1 - np.argmin(divergence[::-1])])  # of equals, the one that cuts least
    return top * best / bins


def _squared_errors(counts: FloatArray, sizes: NDArray[np.int64], levels: int) -> FloatArray:
    """Squared error of thresholds at bins `sizes` `[n]`, rounding and clipping, in bins squared times counts."""
    at = np.arange(counts.size) + 0.5
    mass, first, second = (np.concatenate([np.cumsum((counts * at**k)[::-1])[::-1], [0.0]]) for k in range(3))
    clipped = second[sizes] - 2.0 * sizes * first[sizes] + sizes.astype(np.float64) ** 2 * mass[sizes]
    rounded = (sizes / levels) ** 2 / 12.0 * (mass[0] - mass[sizes])
    return np.asarray(clipped + rounded)


def divergences(counts: FloatArray, sizes: NDArray[np.int64], levels: int) -> FloatArray:
    """KL(P, Q) with thresholds at bins `sizes` `[n]`; infinite where nothing lies inside."""
    total = counts.sum()
    entropy = np.where(counts > 0, counts * np.log(np.maximum(counts, _TINY)), 0.0)
    mass, entropies, held = (np.concatenate([[0.0], np.cumsum(v)]) for v in (counts, entropy, counts > 0))
    edges = sizes[:, None] * np.arange(levels + 1)[None, :] // levels
    group_mass, group_held = np.diff(mass[edges], axis=1), np.diff(held[edges], axis=1)
    outside = total - mass[sizes]
    # The last bin of P holds what lies beyond; where it was empty, Q must now spread over it as well.
    last = counts[sizes - 1]
    group_held[:, -1] += (last == 0) & (outside > 0)
    quantized = group_mass / np.maximum(group_held, 1.0)
    logarithm = np.log(np.maximum(quantized, _TINY))
    inside = entropies[sizes] - (group_mass * logarithm).sum(axis=1)
    clipped = last + outside
    inside += np.where(clipped > 0, clipped * np.log(np.maximum(clipped, _TINY)), 0.0) - entropy[sizes - 1]
    inside -= outside * logarithm[:, -1]
    share = (total - outside) / total if total else np.zeros_like(outside)
    return np.asarray(np.where(share > 0, inside / max(total, _TINY) + np.log(np.maximum(share, _TINY)), np.inf))
