"""The float-bit histogram against numpy on the same values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hbtool.calibration.histogram import Histogram, Resolution, linear, magnitude_edges, quantile

VALUES = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(-1000, 1000, width=32).map(lambda v: 0.0 if abs(v) < 1e-9 else v),
)
RESOLUTIONS = st.sampled_from([Resolution(7), Resolution(4)])


@given(VALUES, RESOLUTIONS)
@settings(deadline=None)
def test_every_value_is_in_the_bin_that_spans_it(values: np.ndarray, resolution: Resolution) -> None:
    histogram = Histogram(resolution)
    histogram.add(values)
    edges = magnitude_edges(resolution)
    expected = np.zeros(resolution.half, np.int64)
    for magnitude in np.abs(values.astype(np.float64)):
        expected[0 if magnitude == 0 else np.searchsorted(edges, magnitude, side="right")] += 1
    np.testing.assert_array_equal(histogram.magnitudes(), expected)


@given(VALUES, RESOLUTIONS)
@settings(deadline=None)
def test_signed_view_keeps_order_count_and_value(values: np.ndarray, resolution: Resolution) -> None:
    histogram = Histogram(resolution)
    histogram.add(values)
    positions, counts = histogram.signed()
    assert counts.sum() == values.size
    assert (np.diff(positions) > 0).all()
    restored = np.repeat(positions, counts.astype(int))
    np.testing.assert_allclose(restored, np.sort(values), rtol=2.0**-resolution.mantissa_bits)


@given(VALUES, VALUES)
@settings(deadline=None)
def test_order_and_pieces_do_not_matter(first: np.ndarray, second: np.ndarray) -> None:
    one, two = Histogram(), Histogram()
    one.add(first)
    one.add(second)
    two.add(np.concatenate([second, first]))
    np.testing.assert_array_equal(one.counts, two.counts)


def test_groups_are_counted_apart() -> None:
    rng = np.random.default_rng(0)
    values, group = rng.standard_normal(500).astype(np.float32), rng.integers(0, 3, 500)
    together = Histogram(Resolution(4), groups=3)
    together.add(values, group)
    for index in range(3):
        alone = Histogram(Resolution(4))
        alone.add(values[group == index])
        np.testing.assert_array_equal(together.magnitudes(index), alone.magnitudes())


def test_signs_are_told_apart_and_negative_zero_is_zero() -> None:
    histogram = Histogram()
    histogram.add(np.array([-2.0, -0.0, 0.0, 3.0, 4.0], np.float32))
    assert histogram.side(0, negative=True).sum() == 1
    assert histogram.side(0, negative=False).sum() == 4
    assert histogram.side(0, negative=False)[0] == 2


def test_extreme_magnitudes_go_to_the_outer_bins() -> None:
    histogram = Histogram()
    histogram.add(np.array([1e-30, 3e38, np.inf], np.float32))
    magnitudes = histogram.magnitudes()
    assert (magnitudes[0], magnitudes[-1]) == (1, 2)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.999, 1.0])
def test_quantile_agrees_with_numpy_to_a_bin(fraction: float) -> None:
    values = np.abs(np.random.default_rng(1).standard_normal(20_000)).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)
    got = quantile(histogram.magnitudes(), magnitude_edges(histogram.resolution), fraction)
    assert got == pytest.approx(np.quantile(values, fraction), rel=2.0**-7)


def test_quantile_of_nothing_is_zero() -> None:
    histogram = Histogram()
    assert quantile(histogram.magnitudes(), magnitude_edges(histogram.resolution), 0.5) == 0.0


def test_linear_bins_hold_the_same_counts() -> None:
    values = np.abs(np.random.default_rng(2).standard_normal(200_000)).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)
    top = float(values.max())
    got = linear(histogram.magnitudes(), magnitude_edges(histogram.resolution), top, 64)
    expected, _ = np.histogram(values, bins=64, range=(0, top))
    assert got.sum() == pytest.approx(values.size)
    np.testing.assert_allclose(got, expected, atol=0.02 * expected.max())
