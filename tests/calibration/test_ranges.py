"""Methods: each against a plain definition on the raw values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtool.calibration.histogram import Histogram, Resolution, linear, magnitude_edges
from hbtool.calibration.kl import divergences
from hbtool.calibration.observe import Statistics
from hbtool.calibration.ranges import Method, range_of, ranges_of
from hbtool.errors import DataError
from hbtool.numerics.qtype import INT8, INT16, dequantize, quantize, symmetric
from hbtool.numerics.ranges import Range, to_qparams


def statistics_of(values: np.ndarray) -> Statistics:
    """Statistics of values `[C, n]`."""
    values = values.astype(np.float32)
    histogram, channels = Histogram(), Histogram(Resolution(4), groups=values.shape[0])
    histogram.add(values)
    channels.add(values, np.repeat(np.arange(values.shape[0]), values.shape[1]))
    low, high = values.min(axis=1).astype(np.float64), values.max(axis=1).astype(np.float64)
    return Statistics(float(low.min()), float(high.max()), low, high, histogram, channels)


def gaussian(seed: int = 0, outlier: float | None = None) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((4, 25_000)).astype(np.float32)
    if outlier is not None:
        values[0, 0] = outlier
    return values


def naive_kl(counts: np.ndarray, size: int, levels: int) -> float:
    """KL of one candidate, bin by bin."""
    inside, beyond = counts[:size].copy(), counts[size:].sum()
    p = inside.copy()
    p[-1] += beyond
    q = np.zeros(size)
    for level in range(levels):
        start, stop = size * level // levels, size * (level + 1) // levels
        held = p[start:stop] > 0
        if held.any():
            q[start:stop][held] = inside[start:stop].sum() / held.sum()
    p, q = p / p.sum(), q / q.sum()
    used = p > 0
    if (q[used] == 0).any():
        return np.inf
    return float((p[used] * np.log(p[used] / q[used])).sum())


@given(st.integers(0, 10_000), st.sampled_from([8, 16]), st.integers(16, 64))
@settings(deadline=None)
def test_kl_in_one_expression_is_kl_bin_by_bin(seed: int, levels: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, 64).astype(np.float64) * rng.integers(0, 2, 64)
    counts[size * (levels - 1) // levels : size] += 1  # the last level holds something, else Q is zero where P is not
    got = divergences(counts, np.array([size]), levels)[0]
    assert got == pytest.approx(naive_kl(counts, size, levels), abs=1e-9)


def test_max_is_exact() -> None:
    values = gaussian()
    found = range_of(statistics_of(values), Method("max"))
    assert found.high[0] == np.abs(values).max()
    assert found.low[0] == -found.high[0]
    both = range_of(statistics_of(values), Method("max", asymmetric=True))
    assert (both.low[0], both.high[0]) == (values.min(), values.max())


@pytest.mark.parametrize("percentile", [0.9, 0.99, 0.999, 1.0])
def test_percentile_cuts_the_share_it_names(percentile: float) -> None:
    values = gaussian()
    found = range_of(statistics_of(values), Method("percentile", percentile=percentile))
    assert found.threshold == pytest.approx(np.quantile(np.abs(values), percentile), rel=2.0**-7)
    both = range_of(statistics_of(values), Method("percentile", percentile=percentile, asymmetric=True))
    assert both.low[0] == pytest.approx(np.quantile(values, 1 - percentile), rel=2.0**-7, abs=1e-3)
    assert both.high[0] == pytest.approx(np.quantile(values, percentile), rel=2.0**-7)


@pytest.mark.parametrize("name", ["percentile", "kl"])
def test_a_lone_outlier_is_cut(name: str) -> None:
    values = gaussian(outlier=100.0)
    threshold = range_of(statistics_of(values), Method(name)).threshold  # type: ignore[arg-type]
    assert 3 < threshold < 30


def squared_error(values: np.ndarray, threshold: float) -> float:
    q = symmetric(threshold, INT8)
    return float(((dequantize(quantize(values, q), q) - values) ** 2).mean())


def test_kl_finds_the_least_divergence_of_its_own_histogram() -> None:
    values = gaussian(outlier=20.0)
    stats = statistics_of(values)
    assert stats.histogram is not None
    counts = linear(stats.histogram.magnitudes(), magnitude_edges(stats.histogram.resolution), 20.0, 1024)
    threshold = range_of(stats, Method("kl")).threshold
    sizes = np.linspace(128, 1024, 224).astype(int)
    errors = {size: squared_error(values, 20 * size / 1024) for size in sizes}
    chosen = naive_kl(counts, round(threshold / 20 * 1024), 128)
    # (histogram and values differ a little in what is just allowed)
    assert chosen <= min(naive_kl(counts, size, 128) for size in sizes if errors[size] < 1.9 * errors[1024]) + 1e-9


def background(seed: int = 0) -> np.ndarray:
    """An image of strokes on a plain background, as normalized digits are: 80 % of the elements are about -0.42."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-0.4, 2.8, (4, 25_000))
    values[:, 5_000:] = rng.normal(-0.42, 0.02, (4, 20_000))
    return values


def gelu(seed: int = 0) -> np.ndarray:
    """Behind a GELU: most elements between -0.17 and 0, the signal far above."""
    values = np.abs(np.random.default_rng(seed).standard_normal((4, 25_000))) * 2
    values[:, 2_000:] = -0.17 * np.random.default_rng(seed + 1).random((4, 23_000))
    return values


@pytest.mark.parametrize("values", [background(), gelu(), gaussian(), gaussian(outlier=20.0)])
def test_kl_loses_at_most_twice_what_the_maximum_loses(values: np.ndarray) -> None:
    """Most elements alike must not make it clip the others away."""
    stats = statistics_of(values)

    kl, largest = (squared_error(values, range_of(stats, Method(name)).threshold) for name in ("kl", "max"))  # type: ignore[arg-type]
    assert kl <= 2.2 * largest  # the histogram knows values to 0.8 %


@pytest.mark.parametrize("both_ends", [False, True])
def test_zeros_of_a_relu_do_not_move_the_kl_threshold(both_ends: bool) -> None:
    spread = np.clip(np.abs(gaussian()) * 3, 0.01, 6)
    mostly_zero = np.concatenate([spread, np.zeros((4, 75_000))], axis=1)
    method = Method("kl", asymmetric=both_ends)
    alone, drowned = (range_of(statistics_of(v), method).threshold for v in (spread, mostly_zero))
    assert drowned == alone
    assert drowned > 5.5


@pytest.mark.parametrize("both_ends", [False, True])
def test_mse_is_no_worse_than_any_other_range(both_ends: bool) -> None:
    values = np.maximum(gaussian(outlier=12.0), -0.3) if both_ends else gaussian(outlier=12.0)
    stats = statistics_of(values)

    def error(method: Method) -> float:
        q = to_qparams(range_of(stats, method), INT8, both_ends)
        return float(((dequantize(quantize(values, q), q) - values) ** 2).mean())

    best = error(Method("mse", asymmetric=both_ends))
    others = [Method("max", asymmetric=both_ends)]
    others += [Method("percentile", percentile=p, asymmetric=both_ends) for p in (0.9, 0.99, 0.999, 0.99995)]
    assert best <= min(map(error, others)) * 1.02  # steps of 1 % in the range, bins of 0.8 %


@pytest.mark.parametrize("name", ["max", "percentile", "kl", "mse"])
@pytest.mark.parametrize("both_ends", [False, True])
def test_no_range_leaves_the_extremes(name: str, both_ends: bool) -> None:
    for values in (gaussian(), np.abs(gaussian()), -np.abs(gaussian()), np.zeros((4, 10)), np.full((4, 10), 3.0)):
        stats = statistics_of(values)
        found = range_of(stats, Method(name, asymmetric=both_ends))  # type: ignore[arg-type]
        largest = max(abs(stats.low), abs(stats.high))
        assert found.threshold <= largest
        assert found.low[0] <= found.high[0]
        if both_ends:
            assert found.low[0] >= min(stats.low, 0)
            assert found.high[0] <= max(stats.high, 0)


@pytest.mark.parametrize("name", ["max", "percentile", "kl", "mse"])
def test_channels_get_ranges_of_their_own(name: str) -> None:
    values = gaussian() * np.array([[1.0], [10.0], [0.1], [0.0]], np.float32)
    found = range_of(statistics_of(values), Method(name, per_channel=True))  # type: ignore[arg-type]
    assert found.axis == 1
    ratios = np.array(found.high)[:3] / np.array([1, 10, 0.1])
    assert ratios.max() / ratios.min() < 1.5
    assert found.high[3] == 0
    assert to_qparams(found).axis == 1


def test_values_without_channels_fall_back_to_the_tensor() -> None:
    found = range_of(Statistics(-1.0, 2.0), Method("max", per_channel=True))
    assert (found.axis, found.threshold) == (None, 2.0)


def test_int16_keeps_the_maximum_under_kl() -> None:
    stats = statistics_of(gaussian(outlier=50.0))
    assert range_of(stats, Method("kl", type=INT16)).threshold == 50.0


def test_qparams_of_ranges() -> None:
    assert to_qparams(Range((-1.27,), (1.0,))).scale == pytest.approx(0.01)
    lopsided = to_qparams(Range((0.0,), (2.55,)), INT8, True)
    assert (lopsided.scale, lopsided.zero_point) == (pytest.approx(0.01), -128)
    assert to_qparams(Range((0.0,), (2.55,)), INT16, True).zero_point == 0
    assert to_qparams(Range((-1.0, -3.0), (2.0, 1.0), 1)).scales == pytest.approx((6**0.5 / 127, 3 / 127))


def test_a_method_without_its_histogram_is_an_error() -> None:
    with pytest.raises(DataError, match="kl needs a histogram"):
        ranges_of({"x": Statistics(-1.0, 1.0)}, Method("kl"))
