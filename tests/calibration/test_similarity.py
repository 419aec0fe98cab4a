"""Measures of agreement against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hbtool.calibration.similarity import SimilarityMeter, similarity
from hbtool.errors import ModelError


def test_formulas() -> None:
    a, b = np.array([1.0, 2.0, -2.0, 0.0]), np.array([1.0, 1.0, -2.0, 2.0])
    found = similarity(a, b)
    assert found.cosine == pytest.approx(7 / (3 * math.sqrt(10)))
    assert found.l1 == pytest.approx(3 / 4)
    assert found.l2 == pytest.approx(math.sqrt(5) / 4)
    assert found.chebyshev == 2
    assert found.mse == pytest.approx(5 / 4)
    assert found.sqnr_db == pytest.approx(10 * math.log10(9 / 5))


def test_pieces_measure_as_one() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 300)).astype(np.float32)
    meter = SimilarityMeter()
    for piece in range(0, 300, 70):
        meter.add(a[piece : piece + 70], b[piece : piece + 70])
    whole, parts = similarity(a, b), meter.result()
    for name in ("cosine", "l1", "l2", "chebyshev", "mse", "sqnr_db"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))


@pytest.mark.parametrize(("a", "b", "cosine"), [([0, 0], [0, 0], 1.0), ([0, 0], [1, 0], 0.0), ([2, 4], [1, 2], 1.0)])
def test_zero_tensors(a: list[float], b: list[float], cosine: float) -> None:
    assert similarity(np.array(a), np.array(b)).cosine == pytest.approx(cosine)


def test_equal_tensors_have_no_noise() -> None:
    assert similarity(np.ones(3), np.ones(3)).sqnr_db == math.inf
    assert similarity(np.zeros(3), np.ones(3)).sqnr_db == -math.inf


def test_nan_shows_in_the_largest_distance() -> None:
    assert math.isnan(similarity(np.array([1.0, np.nan]), np.ones(2)).chebyshev)


def test_sizes_must_agree() -> None:
    with pytest.raises(ModelError, match="cannot compare"):
        similarity(np.ones(3), np.ones(4))
