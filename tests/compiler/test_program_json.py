"""A program on disk: the same text back, and one clear error for whatever is wrong with it."""

from __future__ import annotations

import json
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_network import random_network
from run_compiled import small

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.artifact.program_json import read_program, write_program
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.errors import ArtifactError


@pytest.fixture(scope="module")
def text() -> str:
    integer, _ = random_network(5, 6)
    return write_program(compile_model(integer, small("bayes-e", 8000), CompileOptions("O2"))[0].program)


def test_it_comes_back_as_it_was(text: str) -> None:
    assert write_program(read_program(text)) == text


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cut=st.floats(0, 0.999))
def test_a_truncated_text_is_refused(text: str, cut: float) -> None:
    with pytest.raises(ArtifactError):
        read_program(text[: int(len(text) * cut)])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(at=st.floats(0, 0.9999), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(text: str, at: float, bit: int) -> None:
    data = bytearray(text.encode())
    data[int(len(data) * at)] ^= 1 << bit
    with suppress(ArtifactError):
        assert read_program(bytes(data)).cores >= 1


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(version=99),
        lambda d: d.update(onchip_bytes=1 << 60),
        lambda d: d.update(onchip_bytes=-1),
        lambda d: d.update(onchip_bytes=1.5),
        lambda d: d.update(cores=10**9),
        lambda d: d.update(name="x" * 10**6),
        lambda d: d.update(regions={}),
        lambda d: d["regions"][0].__setitem__(2, 1 << 62),
        lambda d: d["regions"][0].__setitem__(1, "secret"),
        lambda d: d["views"][0].__setitem__(3, [1 << 40, 1 << 40]),
        lambda d: d["views"][0].__setitem__(1, 1 << 40),
        lambda d: d["views"][0].__setitem__(2, "object"),
        lambda d: d["instructions"][0].__setitem__(6, [0]),
        lambda d: d["instructions"][3].__setitem__(6, [10**9]),
        lambda d: d["instructions"][0].__setitem__(4, [True]),
        lambda d: d["instructions"][0].__setitem__(9, 5),
        lambda d: d["attributes"].append({"a": {"b": 1}}),
        lambda d: d["attributes"].append({"a": 10**40}),
        lambda d: d["jobs"][0].__setitem__(0, "gpu"),
        lambda d: d.pop("layers"),
    ],
)
def test_hostile_numbers_are_refused(text: str, change: Any) -> None:
    data = json.loads(text)
    change(data)
    with pytest.raises(ArtifactError):
        read_program(json.dumps(data))


@pytest.mark.parametrize(
    "hostile", ["[" * 200_000, '{"version":' * 100_000, '{"version":' + "9" * 10_000 + "}", "", "null", "1"]
)
def test_deep_and_huge_texts_are_refused_quickly_and_without_much_memory(hostile: str) -> None:
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(ArtifactError):
            read_program(hostile)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert time.monotonic() - started < 10
