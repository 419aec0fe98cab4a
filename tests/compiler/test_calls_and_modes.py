"""Function calls that end inside a layer, and what the compile modes choose by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from random_network import random_network
from run_compiled import check_bits, small

import hbtool.compiler.compile as compiler
import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.artifact.program import ON_CHIP, Program
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.perf.timeline import timeline
from hbtool.target.target import Target

SLOW = {"clock_hz": 2e6, "ddr_bytes_per_second": 1e8, "launch_us": 5.0, "dma_latency_cycles": 20}


def _slow() -> Target:
    return replace(small("bayes-e", 20_000), **SLOW, instruction_cycles=4)


def _layer_us(program: Program, target: Target) -> dict[int, float]:
    """Computing time of each layer."""
    busy: dict[int, float] = {}
    for i in program.instructions:
        if i.job.unit != "dma":
            busy[i.layer] = busy.get(i.layer, 0.0) + target.us(target.cycles(i.job))
    return busy


def _calls_of_layers(program: Program) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for i in program.instructions:
        if i.job.unit != "dma":
            found.setdefault(i.layer, set()).add(i.call)
    return found


def _limit(integer: Any, target: Target) -> int:
    """A third of what the longest layer computes."""
    programs = [c.program for c in compile_model(integer, target, CompileOptions("O2"))]
    return int(max(us for p in programs for us in _layer_us(p, target).values()) / 3)


@pytest.mark.parametrize("level", ["O0", "O2", "O3"])
def test_a_layer_longer_than_the_limit_is_cut_between_its_tiles(level: Any) -> None:
    integer, feeds = random_network(1, 16)
    target = _slow()
    limit = _limit(integer, target)
    programs = check_bits(integer, feeds, target, CompileOptions(level, max_time_per_fc=limit))
    assert max(us for p in programs for us in timeline(p, target).call_us) <= limit
    assert max(len(calls) for p in programs for calls in _calls_of_layers(p).values()) >= 3


def test_nothing_stays_on_chip_from_one_call_to_the_next() -> None:
    integer, _ = random_network(1, 16)
    target = _slow()
    options = CompileOptions("O2", max_time_per_fc=_limit(integer, target))
    (compiled,) = compile_model(integer, target, options)
    program = compiled.program
    assert max(map(len, _calls_of_layers(program).values())) >= 3
    call, written = -1, bytearray()
    for i in program.instructions:
        if i.call != call:
            call, written = i.call, bytearray(program.onchip_bytes)
        for view in i.inputs:
            if view is not None and view.space == ON_CHIP:
                first, _ = view.span
                assert written[first], f"{i.op} of layer {i.layer} reads what an earlier call left on chip"
        for view in i.outputs:
            if view.space == ON_CHIP:
                low, high = view.span
                written[low:high] = b"\1" * (high - low)


def test_a_limit_that_cannot_be_kept_still_gives_the_shortest_calls_found() -> None:
    integer, feeds = random_network(2)
    target = replace(_slow(), launch_us=500.0)  # a call cannot be shorter than its launch
    programs = check_bits(integer, feeds, target, CompileOptions("O2", max_time_per_fc=400))
    whole = check_bits(integer, feeds, target, CompileOptions("O2"))
    longest = [max(us for p in found for us in timeline(p, target).call_us) for found in (programs, whole)]
    assert 400 < longest[0] < longest[1]


def _compared(monkeypatch: pytest.MonkeyPatch, seed: int, mode: Any) -> tuple[list[int], list[int]]:
    """(DDR bytes of every plan compared, DDR bytes of the chosen programs) of a network of one segment."""
    attempt: Callable[..., Any] = compiler._attempt
    target, seen = small("bayes-e", 12_000), []

    def watched(task: Any) -> Any:
        result = attempt(task)
        seen.append(timeline(result[1].program, target).ddr_bytes)
        return result

    monkeypatch.setattr(compiler, "_attempt", watched)
    integer, _ = random_network(seed)
    chosen = [timeline(c.program, target).ddr_bytes for c in compile_model(integer, target, CompileOptions("O3", mode))]
    monkeypatch.undo()
    return seen, chosen


def test_bandwidth_mode_takes_the_plan_with_the_fewest_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    different = 0
    for seed in (1, 2, 3):
        seen, chosen = _compared(monkeypatch, seed, "bandwidth")
        assert len(chosen) == 1 and len(seen) >= 2
        assert chosen[0] == min(seen)
        different += len(set(seen)) > 1
    assert different >= 2, "the plans that O3 compares all move the same bytes"


def test_bytes_decide_in_bandwidth_mode_and_time_only_between_equals() -> None:
    integer, _ = random_network(1)
    target = small("bayes-e", 12_000)
    (compiled,) = compile_model(integer, target, CompileOptions("O2"))
    line = timeline(compiled.program, target)
    options = CompileOptions("O3", "bandwidth")
    slower = replace(line, total_us=1e6 * line.total_us)
    more = replace(slower, loaded_bytes=line.loaded_bytes + 1, total_us=line.total_us)
    costs = [compiler._cost(each, target, options) for each in (line, slower, more)]
    assert costs == sorted(costs)
    assert compiler._cost(more, target, CompileOptions("O3")) < compiler._cost(slower, target, CompileOptions("O3"))
