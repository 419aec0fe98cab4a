"""How close a quantized tensor is to its float original (hb_mapper.md 5.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hbtool.errors import ModelError


@dataclass(frozen=True)
class Similarity:
    """Measures of d = reference - other over N elements.

    Attributes:
        cosine: cosine of the angle between both; 1 where both are zero, 0 where one is.
        l1: mean |d|.
        l2: sqrt(sum d²) / N, the norm divided by N as the vendor's tables print it, not the RMS.
        chebyshev: max |d|.
        mse: mean d².
        sqnr_db: 10·log10(sum reference² / sum d²) in decibels, infinite where d is zero.
    """

    cosine: float
    l1: float
    l2: float
    chebyshev: float
    mse: float
    sqnr_db: float


class SimilarityMeter:
    """Collects pairs of tensors and measures them as if they were one pair."""

    def __init__(self) -> None:
        self._count = 0
        self._dot = self._reference = self._other = self._absolute = self._square = self._largest = 0.0

    def add(self, reference: NDArray[np.generic], other: NDArray[np.generic]) -> None:
        """Take in one pair.

        Raises:
            ModelError: the numbers of elements differ.
        """
        if reference.size != other.size:
            raise ModelError(f"cannot compare tensors of shapes {reference.shape} and {other.shape}")
        if reference.size == 0:
            return
        a = np.asarray(reference, np.float64).ravel()
        b = np.asarray(other, np.float64).ravel()
        distance = np.abs(a - b)
        self._count += a.size
        self._dot += float(a @ b)
        self._reference += float(a @ a)
        self._other += float(b @ b)
        self._absolute += float(distance.sum())
        self._square += float(distance @ distance)
        self._largest = float(np.fmax(self._largest, distance.max())) if not np.isnan(distance).any() else math.nan

    def result(self) -> Similarity:
        """The measures of everything added; perfect agreement where nothing was."""
        count = max(self._count, 1)
        return Similarity(
            cosine=self._cosine(),
            l1=self._absolute / count,
            l2=math.sqrt(self._square) / count,
            chebyshev=self._largest,
            mse=self._square / count,
            sqnr_db=_decibels(self._reference, self._square),
        )

    def _cosine(self) -> float:
        if self._reference == 0 or self._other == 0:
            return 1.0 if self._reference == self._other else 0.0
        return self._dot / (math.sqrt(self._reference) * math.sqrt(self._other))


def similarity(reference: NDArray[np.generic], other: NDArray[np.generic]) -> Similarity:
    """Measure one pair of tensors of equal size; computed in float64.

    Raises:
        ModelError: the numbers of elements differ.
    """
    meter = SimilarityMeter()
    meter.add(reference, other)
    return meter.result()


def relative_error(reference: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """sum (reference - other)² / sum reference²; 0 where both are zero, infinite where only the reference is."""
    a = np.asarray(reference, np.float64).ravel()
    d = a - np.asarray(other, np.float64).ravel()
    signal, noise = float(a @ a), float(d @ d)
    if signal == 0:
        return math.inf if noise else 0.0
    return noise / signal


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
