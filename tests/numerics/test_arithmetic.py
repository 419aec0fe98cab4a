"""The arithmetic by its definitions: exact rational numbers beside what the code computes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtool.numerics.int_math import NumpyMath
from hbtool.numerics.qtype import INT8, INT16, INT32, QParams, asymmetric, dequantize, per_channel, quantize, symmetric
from hbtool.numerics.rescale import dyadic_ratios, multiplier, round_to_bits

SCALES = st.floats(2.0**-20, 2.0**10, width=32)
M = NumpyMath()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), SCALES, st.integers(-128, 127))
def test_quantize_is_onnx_quantize_linear(values: list[float], scale: float, zero_point: int) -> None:
    x = np.asarray(values, np.float32)
    ratio = x / np.float32(scale)
    expected = [min(max(round(float(r)) + zero_point, -128), 127) for r in ratio]
    assert quantize(x, QParams(INT8, (scale,), zero_point)).tolist() == expected


@given(st.integers(-128, 127), SCALES, st.integers(-128, 127))
def test_a_dequantized_integer_quantizes_to_itself(integer: int, scale: float, zero_point: int) -> None:
    q = QParams(INT8, (scale,), zero_point)
    assert quantize(dequantize(np.asarray([integer], np.int8), q), q) == [integer]


def test_nan_becomes_the_zero_point_and_infinity_saturates() -> None:
    q = QParams(INT8, (0.5,), 3)
    assert quantize(np.asarray([np.nan, np.inf, -np.inf], np.float32), q).tolist() == [3, 127, -128]


@given(st.floats(2.0**-30, 2.0**30, width=32), st.integers(2, 24))
def test_round_to_bits_keeps_the_nearest_number_with_that_many_bits(value: float, bits: int) -> None:
    rounded = float(round_to_bits(np.asarray([value], np.float32), bits)[0])
    mantissa, _ = np.frexp(rounded)
    assert Fraction(float(mantissa)) * 2**bits == int(Fraction(float(mantissa)) * 2**bits)
    ulp = 2.0 ** (np.frexp(value)[1] - bits)
    assert abs(rounded - value) <= ulp / 2


@given(SCALES, SCALES, SCALES)
def test_multiplier_rounds_in_the_stated_order(x: float, w: float, y: float) -> None:
    expected = np.float32(np.float32(np.float32(x) * np.float32(w)) / np.float32(y))
    assert multiplier([x], [w], y, 24)[0] == expected


@given(st.integers(-(2**31), 2**31 - 1), st.floats(2.0**-24, 4.0, width=32), st.integers(-128, 127))
def test_requantize_is_one_float32_multiply_and_one_rounding(acc: int, m: float, zero_point: int) -> None:
    product = np.float32(np.float32(acc) * np.float32(m))
    expected = min(max(round(float(product)) + zero_point, -128), 127)
    assert M.requantize(np.asarray([acc]), np.asarray([m], np.float32), INT8, zero_point) == [expected]


@given(
    st.lists(st.floats(2.0**-12, 2.0**6), min_size=2, max_size=2),
    st.integers(-255, 255),
    st.integers(-255, 255),
    st.integers(-128, 127),
)
def test_a_weighted_sum_of_two_is_exact_before_its_one_rounding(
    ratios: list[float], a: int, b: int, zero_point: int
) -> None:
    ra, rb = dyadic_ratios(ratios, INT8)
    exact = Fraction(ra) * a + Fraction(rb) * b
    expected = min(max(round(exact) + zero_point, -128), 127)
    terms = [(np.asarray([a]), 0, ra), (np.asarray([b]), 0, rb)]
    assert M.weighted_sum(terms, INT8, zero_point) == [expected]


@pytest.mark.parametrize(("type_", "bits"), [(INT8, 14), (INT16, 22)])
@given(ratios=st.lists(st.floats(2.0**-20, 2.0**20), min_size=1, max_size=4))
def test_dyadic_ratios_share_one_power_of_two(type_, bits: int, ratios: list[float]) -> None:
    rounded = dyadic_ratios(ratios, type_)
    largest = max(ratios)
    step = 2.0 ** (np.frexp(largest)[1] - bits)
    assert all(abs(r - d) <= step for r, d in zip(ratios, rounded, strict=True))
    # In units of twice that step (where the largest rounded up) or that step, all are integers of `bits` bits.
    assert any(all((d / unit).is_integer() and d / unit < 2**bits for d in rounded) for unit in (step, 2 * step))


def test_scales_of_thresholds() -> None:
    assert symmetric(12.7, INT8).scale == np.float32(12.7 / 127)
    assert symmetric(1.0, INT16).scale == np.float32(1 / 32767)
    assert symmetric(1.47, INT8, steps=127.5).scale == np.float32(1.47 / 127.5)
    assert symmetric(0.0, INT8).scale == 1.0
    assert per_channel(np.asarray([1.27, 0.0]), INT8, 0).scales == (np.float32(0.01), 1.0)


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_an_asymmetric_range_holds_zero_and_both_ends(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    q = asymmetric(low, high, INT8)
    assert dequantize(quantize(np.zeros(1, np.float32), q), q) == [0.0]
    ends = np.asarray([low, high], np.float32)
    error = np.abs(dequantize(quantize(ends, q), q) - ends)
    assert np.all(error <= 0.51 * q.scale)
    assert q.zero_point % 2 == 0
    # An even zero point costs at most two of the 255 steps.
    assert q.scale <= 1.0001 * (max(high, 0.0) - min(low, 0.0)) / 253 or max(abs(low), abs(high)) < 1e-27


def test_convolution_is_exact_at_the_extremes() -> None:
    x = np.full((1, 512, 3, 3), -128, np.int8)
    w = np.full((2, 512, 3, 3), -128, np.int8)
    acc = M.conv(x, w, zero_point=127, strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), group=1)
    assert acc.reshape(-1).tolist() == [512 * 9 * 255 * 128] * 2
    assert INT32.min <= acc.max() <= INT32.max
