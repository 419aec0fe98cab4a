"""The only place where scales become multipliers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hbtool.numerics.qtype import IntType


def round_to_bits(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """`values` rounded (half to even) to `bits` significant binary digits; 24 and more change nothing.

    Bayes chips multiply by a 15-bit integer and shift; a float32 with 15 significant bits is the same number.
    """
    if bits >= 24:
        return np.asarray(values, np.float32)
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    rounded = np.rint(mantissa * 2.0**bits) / 2.0**bits
    return np.ldexp(rounded, exponent).astype(np.float32)


def multiplier(
    input_scales: Sequence[float] | NDArray[np.float32],
    weight_scales: Sequence[float] | NDArray[np.float32],
    output_scale: float | NDArray[np.float32],
    bits: int,
) -> NDArray[np.float32]:
    """m = float32(float32(s_x * s_w) / s_y), rounded to the march's multiplier width.

    Args:
        input_scales: s_x, one value or one per output channel.
        weight_scales: s_w, one value or one per output channel.
        output_scale: s_y, one value or one per output channel.
        bits: significant bits of the march's multiplier (15 on bayes, 24 = float32 itself).

    Returns:
        float32, one value per output channel (at least one-dimensional).
    """
    product = np.asarray(input_scales, np.float32) * np.asarray(weight_scales, np.float32)
    ratio = np.asarray(product, np.float32) / np.asarray(output_scale, np.float32)
    return round_to_bits(np.atleast_1d(ratio), bits)


def dyadic_ratios(ratios: Sequence[float], type_: IntType) -> tuple[float, ...]:
    """Ratios rounded to integers over one common power of two, so that a weighted sum of integers is exact.

    int8 operands get 14-bit numerators (every product and the sum of two stays below 2^24: exact in float32, which
    is how onnxruntime's QLinearAdd computes); wider operands get 22 bits (exact in float64).

    Returns:
        The rounded ratios; each is numerator / 2^k with the same k.
    """
    numerator_bits = 14 if type_.bits <= 8 else 22
    largest = max(abs(r) for r in ratios)
    if largest == 0:
        return tuple(0.0 for _ in ratios)
    exponent = numerator_bits - math.frexp(largest)[1]
    # The largest may round up to 2^bits; one bit less keeps the promise.
    if round(math.ldexp(largest, exponent)) >= 1 << numerator_bits:
        exponent -= 1
    return tuple(math.ldexp(round(math.ldexp(r, exponent)), -exponent) for r in ratios)
