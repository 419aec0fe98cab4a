"""Bit for bit, exhaustively where it can be: what the operators define is what stock onnxruntime computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_model import both

from hbtool.numerics.qtype import INT8, INT16, symmetric
from hbtool.numerics.rescale import dyadic_ratios, round_to_bits
from hbtool.ops.add import Add, AddAttributes
from hbtool.ops.boundary import Requantize, RequantizeAttributes
from hbtool.ops.compare import Compare, CompareAttributes
from hbtool.ops.conv import Conv, ConvAttributes
from hbtool.ops.conv_transpose import ConvTranspose, ConvTransposeAttributes
from hbtool.ops.matmul import MatMul, MatMulAttributes
from hbtool.ops.mul import Mul, MulAttributes
from hbtool.ops.table import FUNCTIONS, Table, TableAttributes, rounded_function

ALL_INT8 = np.arange(-128, 128, dtype=np.int8)
FIRST, SECOND = (a.astype(np.int8) for a in np.meshgrid(ALL_INT8, ALL_INT8))
ALL_INT16 = np.arange(-32768, 32768).astype(np.int16)

# Exact powers of two and odd multiples of them (every half is a tie), 15-bit multipliers, ordinary float32 numbers.
MULTIPLIERS = [0.5, 0.25, 1.5, 2.0**-9, 3 * 2.0**-11, 0.0123456789, 1.0039764, 127 / 127.5, 2.0**-20, 7.77]
RATIOS = [(1.0, 1.0), (0.5, 0.5), (0.5, 1.5), (0.123, 0.877), (3.3, 0.01), (1.0, 2.0**-13), (0.3333333, 0.6666667)]


def multiplier(value: float, bits: int) -> np.ndarray:
    return round_to_bits(np.asarray([value], np.float32), bits)


@pytest.mark.parametrize("y_type", ["int8", "int16"])
@pytest.mark.parametrize("x", [ALL_INT8, ALL_INT16], ids=["int8", "int16"])
@pytest.mark.parametrize("value", MULTIPLIERS)
def test_requantize_on_all_values(x: np.ndarray, value: float, y_type: str) -> None:
    zero_points = (3, -5) if x.dtype == np.int8 and y_type == "int8" else (0, 0)
    want, got = both(Requantize, [x, multiplier(value, 15)], RequantizeAttributes(*zero_points, y_type), [1])
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("ratios", RATIOS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("zero_points", [(0, 0, 0), (-128, 7, 31), (5, -128, 30)])
def test_sums_of_all_pairs(ratios: tuple[float, float], sign: float, zero_points: tuple[int, int, int]) -> None:
    a, b = dyadic_ratios([ratios[0], sign * ratios[1]], INT8)
    want, got = both(Add, [FIRST, SECOND], AddAttributes(a, b, *zero_points))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("value", MULTIPLIERS)
@pytest.mark.parametrize("zero_points", [(0, 0, 0), (-128, 7, 31)])
def test_products_of_all_pairs(value: float, zero_points: tuple[int, int, int]) -> None:
    want, got = both(Mul, [FIRST, SECOND, multiplier(value / 64, 24)], MulAttributes(*zero_points), [2])
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", ["gt", "ge", "lt", "le", "eq"])
@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.7071, 1.9999])
def test_comparisons_of_all_pairs(kind: str, ratio: float) -> None:
    ratios = dyadic_ratios([1.0, ratio], INT8)
    want, got = both(Compare, [FIRST, SECOND], CompareAttributes(kind, *ratios, 5, -9))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_tables_on_all_values(name: str) -> None:
    whole = (INT8.min, INT8.max)
    entries = rounded_function(
        lambda x: FUNCTIONS[name](x, lambda _, default: default),
        ALL_INT8.astype(np.int64),
        symmetric(4.0, INT8),
        symmetric(2.0, INT8),
        whole,
    )
    want, got = both(Table, [ALL_INT8, entries], TableAttributes(), [1])
    np.testing.assert_array_equal(want, entries)
    np.testing.assert_array_equal(got, want)


def extreme(rng: np.random.Generator, shape: tuple[int, ...], dtype: type = np.int8) -> np.ndarray:
    """Integers, a third of them at the ends of the type."""
    limits = np.iinfo(dtype)
    values = rng.integers(limits.min, limits.max + 1, shape)
    ends = rng.choice([limits.min, limits.max], shape)
    return np.where(rng.random(shape) < 1 / 3, ends, values).astype(dtype)


def factors(rng: np.random.Generator, count: int, reach: int) -> np.ndarray:
    """Multipliers that fill int8 from sums of `reach`; half of them powers of two times an odd number (ties)."""
    usual = rng.uniform(0.2, 3, count) * 127 / reach
    exponents = np.floor(np.log2(usual))
    odd = rng.choice([1, 3, 5], count) * 2.0 ** (exponents - 1)
    return np.where(rng.random(count) < 0.5, odd, round_to_bits(usual.astype(np.float32), 15)).astype(np.float32)


SEEDS = st.integers(0, 2**32 - 1)
TYPES = st.sampled_from(["int8", "int16", "int32"])


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 4]), st.sampled_from([1, 3]), st.integers(1, 2), TYPES, st.booleans())
def test_convolutions(seed: int, group: int, kernel: int, stride: int, y_type: str, wide: bool) -> None:
    rng = np.random.default_rng(seed)
    inputs, outputs = 4 * int(rng.integers(1, 24)), 4 * int(rng.integers(1, 5))
    x = extreme(rng, (1, inputs, 7, 6), np.int16 if wide else np.int8)
    w = extreme(rng, (outputs, inputs // group, kernel, kernel))
    bias = rng.integers(-(2**20), 2**20, outputs).astype(np.int32)
    m = factors(rng, outputs, 128 * 64 * w[0].size * (256 if wide else 1))
    pad = kernel // 2
    x_zero, y_zero = (int(v) for v in rng.integers(-128, 128, 2))
    zero_points = (0 if wide else x_zero, y_zero if y_type == "int8" else 0)
    attributes = ConvAttributes(
        (stride, stride), (pad, pad, pad, pad), (1, 1), group, *zero_points, y_type, *((-60, 100) if seed % 2 else ())
    )
    want, got = both(Conv, [x, w, bias, m], attributes, [1, 2, 3])
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_a_large_kernel_of_large_weights_leaves_an_exact_accumulator(dtype: type) -> None:
    rng = np.random.default_rng(5)
    x = rng.choice([np.iinfo(dtype).min, np.iinfo(dtype).max], (1, 2, 33, 32)).astype(dtype)
    w = rng.choice([-128, 127], (2, 1, 31, 31)).astype(np.int8)
    attributes = ConvAttributes(group=2, y_type="int32")
    constants = [np.zeros(2, np.int32), np.ones(2, np.float32)]
    want, got = both(Conv, [x, w, *constants], attributes, [1, 2, 3])
    np.testing.assert_array_equal(got, want)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), TYPES)
def test_transposed_convolutions(seed: int, kernel: int, stride: int, crop: int, y_type: str) -> None:
    rng = np.random.default_rng(seed)
    group = int(rng.choice([1, 2]))
    x, w = extreme(rng, (2, 4, 3, 5)), extreme(rng, (6, 4 // group, kernel, kernel))
    bias, m = rng.integers(-(2**16), 2**16, 6).astype(np.int32), factors(rng, 6, 128 * 64 * w[0].size)
    full = [(n - 1) * stride + kernel for n in (3, 5)]
    crops = tuple(min(crop, n - 1) for n in full)
    sizes = tuple(max(n - c - int(rng.integers(-2, 3)), 1) for n, c in zip(full, crops, strict=True))
    zero_point = int(rng.integers(-128, 128)) if y_type == "int8" else 0
    attributes = ConvTransposeAttributes((stride, stride), crops, sizes, group, zero_point, 0, y_type)
    want, got = both(ConvTranspose, [x, w, bias, m], attributes, [1, 2, 3])
    np.testing.assert_array_equal(got, want)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.booleans(), st.booleans(), TYPES, st.booleans())
def test_matrix_products(seed: int, constant: bool, biased: bool, y_type: str, wide: bool) -> None:
    rng = np.random.default_rng(seed)
    rows, inner, columns = (int(n) for n in rng.integers(1, (9, 300, 12)))
    a = extreme(rng, (2, rows, inner), np.int16 if wide else np.int8)
    b = extreme(rng, (inner, columns) if constant else (2, inner, columns))
    bias = rng.integers(-(2**20), 2**20, columns).astype(np.int32) if biased else None
    m = factors(rng, columns if constant else 1, 128 * 64 * inner * (256 if wide else 1))
    a_zero, b_zero = (int(v) for v in rng.integers(-128, 128, 2))
    zero_points = (0 if wide else a_zero, 0 if wide or constant else b_zero, 9 if y_type == "int8" else 0)
    constants = [1, 2, 3] if constant else [2, 3]
    operands = [a, b, m] if bias is None else [a, b, m, bias]
    want, got = both(MatMul, operands, MatMulAttributes(*zero_points, y_type), constants)
    np.testing.assert_array_equal(got, want)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(["int8", "int16"]), st.booleans())
def test_sums_and_products_of_int16(seed: int, y_type: str, product: bool) -> None:
    rng = np.random.default_rng(seed)
    a, b = extreme(rng, (3, 50), np.int16), extreme(rng, (3, 50), np.int16)
    if product:
        m = factors(rng, 1, 2**30 // (1 if y_type == "int8" else 256))
        want, got = both(Mul, [a, b, m], MulAttributes(y_type=y_type), [2])
    else:
        ratios = dyadic_ratios([float(r) for r in rng.uniform(-2, 2, 2)], INT16)
        want, got = both(Add, [a, b], AddAttributes(*ratios, y_type=y_type))
    np.testing.assert_array_equal(got, want)
