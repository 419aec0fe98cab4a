from __future__ import annotations

from hbtool.numerics.finite import finite


def test_what_json_cannot_hold_becomes_none() -> None:
    value = {"a": [1.5, float("inf")], "b": (float("nan"), 2, "x"), "c": None}
    assert finite(value) == {"a": [1.5, None], "b": [None, 2, "x"], "c": None}
