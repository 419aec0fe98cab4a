"""How far a tensor is from its float original, in the five measures that users of the mapper's debugger know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hbtool.errors import ModelError

MetricName = Literal["cosine", "mse", "mre", "sqnr", "chebyshev"]
METRICS: tuple[MetricName, ...] = ("cosine", "mse", "mre", "sqnr", "chebyshev")
LARGER_IS_BETTER: frozenset[str] = frozenset({"cosine", "sqnr"})
_LARGEST_SQNR_DB = 200.0


@dataclass(frozen=True)
class Measures:
    """Measures of d = reference - other.

    Attributes:
        cosine: cosine of the angle between both; 1 where both are zero, 0 where one is.
        mse: mean of d².
        mre: sum of |d| over sum of |reference| (a mean of quotients would be decided by values near zero).
        sqnr: 10·log10(sum reference² / sum d²) in decibels, at most 200 (no difference at all).
        chebyshev: largest |d|.
    """

    cosine: float
    mse: float
    mre: float
    sqnr: float
    chebyshev: float

    def value(self, metric: str) -> float:
        """The measure of that name."""
        return float(getattr(self, metric))


EXACT = Measures(1.0, 0.0, 0.0, _LARGEST_SQNR_DB, 0.0)


def measure(reference: NDArray[np.generic], other: NDArray[np.generic]) -> Measures:
    """Measure one pair of tensors of equal size; computed in float64.

    Raises:
        ModelError: the numbers of elements differ.
    """
    if reference.size != other.size:
        raise ModelError(f"cannot compare tensors of shapes {reference.shape} and {other.shape}")
    if not reference.size:
        return EXACT
    a = np.asarray(reference, np.float64).ravel()
    b = np.asarray(other, np.float64).ravel()
    distance = np.abs(a - b)
    signal, noise = float(a @ a), float(distance @ distance)
    total = float(np.abs(a).sum())
    return Measures(
        _cosine(float(a @ b), signal, float(b @ b)),
        noise / a.size,
        float(distance.sum()) / total if total else math.inf if noise else 0.0,
        _decibels(signal, noise),
        float(distance.max()),
    )


def _cosine(dot: float, first: float, second: float) -> float:
    if first == 0 or second == 0:
        return 1.0 if first == second else 0.0
    return dot / (math.sqrt(first) * math.sqrt(second))


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return _LARGEST_SQNR_DB
    return min(10 * math.log10(signal / noise), _LARGEST_SQNR_DB) if signal > 0 else -_LARGEST_SQNR_DB


def worst(pairs: Sequence[Measures]) -> Measures:
    """The worst of each measure (over the outputs of a model)."""
    if not pairs:
        return EXACT
    return Measures(
        **{
            f.name: (min if f.name in LARGER_IS_BETTER else max)(getattr(m, f.name) for m in pairs)
            for f in fields(Measures)
        }
    )


def mean(measures: Iterable[Measures]) -> Measures:
    """The mean of each measure (over samples)."""
    found = list(measures)
    if not found:
        return EXACT
    return Measures(**{f.name: float(np.mean([getattr(m, f.name) for m in found])) for f in fields(Measures)})


def badness(measures: Measures, metric: str) -> float:
    """A number that grows with the error, whatever the metric."""
    value = measures.value(metric)
    return -value if metric in LARGER_IS_BETTER else value
