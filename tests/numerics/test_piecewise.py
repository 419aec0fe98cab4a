"""int16 tables: the stated bound for every function, exactness where it is promised, and how large they get."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.numerics import piecewise
from hbtool.numerics.qtype import INT8, INT16, symmetric
from hbtool.ops.table import FUNCTIONS, rounded_function

INTEGERS = np.arange(INT16.min, INT16.max + 2, dtype=np.int64)
LIMITS = (INT16.min, INT16.max)


def exact(name: str, reach: float, y_type=INT16) -> np.ndarray:
    """The rounded function over [-reach, reach], its output scaled to what it reaches there."""

    def function(x: np.ndarray) -> np.ndarray:
        return FUNCTIONS[name](x, lambda _, default: default)

    with np.errstate(all="ignore"):
        image = function(np.linspace(-reach, reach, 1001))
    threshold = float(np.abs(image[np.isfinite(image)]).max(initial=1e-6))
    return rounded_function(function, INTEGERS, symmetric(reach, INT16), symmetric(threshold, y_type), LIMITS)


@pytest.mark.parametrize("reach", [0.9, 6.0, 50.0])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_stays_within_the_bound(name: str, reach: float) -> None:
    values = exact(name, reach)
    table = piecewise.fit(values)
    error = np.abs(piecewise.expand(table.blocks, table.entries).astype(np.int64) - values[:-1])
    assert error.max() <= piecewise.BOUND


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "Swish", "Gelu", "Mish", "HardSwish", "Softplus", "Exp", "Elu"])
def test_smooth_functions_fit_the_budget_within_one_step(name: str) -> None:
    values = exact(name, 8.0)
    table = piecewise.fit(values)
    error = np.abs(piecewise.expand(table.blocks, table.entries).astype(np.int64) - values[:-1])
    assert len(table.entries) <= piecewise.BUDGET
    assert error.max() <= piecewise.TOLERANCES[0]


def test_int8_results_are_within_one_step() -> None:
    values = exact("Swish", 8.0, INT8)
    table = piecewise.fit(values)
    assert table.entries.dtype == np.int8
    assert np.abs(piecewise.expand(table.blocks, table.entries).astype(int) - values[:-1]).max() <= 1


def test_a_straight_line_needs_two_entries_per_block_and_is_exact() -> None:
    values = np.clip(INTEGERS, *LIMITS).astype(np.int16)
    table = piecewise.fit(values)
    assert len(table.entries) == 2 * piecewise.BLOCKS
    np.testing.assert_array_equal(piecewise.expand(table.blocks, table.entries)[:-256], values[:-257])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_arbitrary_integers_stay_within_the_bound(seed: int, roughness: float) -> None:
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.standard_normal(len(INTEGERS)) * 40 * roughness) + rng.integers(-20000, 20000)
    values = np.clip(np.rint(walk), *LIMITS).astype(np.int16)
    table = piecewise.fit(values)
    assert np.abs(piecewise.expand(table.blocks, table.entries).astype(np.int64) - values[:-1]).max() <= piecewise.BOUND


def test_any_shape_is_evaluated_as_the_expanded_table() -> None:
    table = piecewise.fit(exact("Tanh", 4.0))
    x = np.random.default_rng(0).integers(INT16.min, INT16.max + 1, (3, 1, 7), dtype=np.int16)
    full = piecewise.expand(table.blocks, table.entries)
    np.testing.assert_array_equal(piecewise.evaluate(x, table.blocks, table.entries), full[x.astype(int) + 32768])
