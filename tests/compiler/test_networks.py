"""Random networks through every level, mode, memory size and number of cores: the bits of the definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_network import random_network
from run_compiled import check_bits, small

import hbtool.compiler.compile as compiler
import hbtool.ops  # noqa: F401 - registers the operators
from hbtool import target as targets
from hbtool.artifact.program import COPY, SegmentProgram
from hbtool.artifact.program_json import write_program
from hbtool.compiler.addresses import place_tensors
from hbtool.compiler.compile import compile_model
from hbtool.compiler.layers import read_net
from hbtool.compiler.options import CompileOptions
from hbtool.compiler.segments import split_segments
from hbtool.compiler.strategies import strategies
from hbtool.errors import ArtifactError, CompileError
from hbtool.perf.timeline import timeline
from hbtool.runtime.reference import run_reference
from hbtool.runtime.simulator import simulate
from hbtool.target.target import Target


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    memory=st.sampled_from([3000, 10_000, 60_000]),
    level=st.sampled_from(["O0", "O1", "O2", "O3"]),
    mode=st.sampled_from(["latency", "bandwidth", "balance"]),
    cores=st.integers(1, 2),
)
def test_a_random_network_keeps_its_bits(seed: int, memory: int, level: str, mode: str, cores: int) -> None:
    integer, feeds = random_network(seed, 7)
    options = CompileOptions(level, mode, 40, cores)  # type: ignore[arg-type]
    check_bits(integer, feeds, small("bayes-e", memory, 2), options)


@pytest.mark.parametrize(
    ("seed", "steps", "memory", "level"),
    [
        # A band reads a join of which one part is computed in the same group and comes back from DDR.
        (230, 15, 10_000, "O2"),
        # A band copies one part of a join; the others lie in its storage since before the group.
        (264, 13, 20_000, "O3"),
        # As before, and the part that is not copied is not the first.
        (620, 7, 30_000, "O3"),
        # A join without copies, and a slice of it, inside a group.
        (500, 16, 20_000, "O3"),
    ],
)
def test_joins_across_the_border_of_a_group_keep_their_bits(seed: int, steps: int, memory: int, level: str) -> None:
    integer, feeds = random_network(seed, steps)
    check_bits(integer, feeds, small("bayes-e", memory, 2), CompileOptions(level, "balance", 40))  # type: ignore[arg-type]


def test_the_same_input_gives_the_same_bytes_with_any_number_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    integer, _ = random_network(5)
    monkeypatch.setattr("hbtool.compiler.compile.WORTH_PROCESSES", 1)
    target = small("bayes-e", 6000)
    texts = {
        tuple(
            (write_program(c.program), c.weights) for c in compile_model(integer, target, CompileOptions("O3", jobs=j))
        )
        for j in (1, 1, 2)
    }
    assert len(texts) == 1


def test_function_calls_keep_to_their_limit_and_the_bits() -> None:
    integer, feeds = random_network(1, 16)
    slow = {"clock_hz": 2e6, "ddr_bytes_per_second": 1e8, "launch_us": 5.0, "dma_latency_cycles": 400}
    target = replace(small("bayes-e", 20_000), **slow)
    longest = max(us for c in compile_model(integer, target, CompileOptions("O2")) for us in _calls(c, target))
    limit = int(longest * 0.6)
    programs = check_bits(integer, feeds, target, CompileOptions("O2", max_time_per_fc=limit))
    whole = check_bits(integer, feeds, target, CompileOptions("O2"))
    assert sum(p.calls for p in programs) > sum(p.calls for p in whole) == len(whole)
    assert max(us for p in programs for us in timeline(p, target).call_us) <= limit


def _calls(compiled: SegmentProgram, target: Target) -> tuple[float, ...]:
    return timeline(compiled.program, target).call_us


def test_a_missing_dependency_is_found() -> None:
    integer, feeds = random_network(5)
    target = small("bayes-e", 6000)
    values = run_reference(integer, feeds, keep=True)
    segment = next(s for s in split_segments(integer) if s.device == "BPU")
    compiled = compile_model(integer, target, CompileOptions("O2"))[0]
    entering = {v.name: values[v.name] for v in segment.inputs}
    instructions = compiled.program.instructions
    numbers = [n for n, i in enumerate(instructions) if i.after]
    assert len(numbers) > 20
    for number in numbers[:: max(1, len(numbers) // 12)]:
        for missing in instructions[number].after:
            after = tuple(a for a in instructions[number].after if a != missing)
            changed = (*instructions[:number], replace(instructions[number], after=after), *instructions[number + 1 :])
            program = replace(compiled.program, instructions=changed)
            with pytest.raises(ArtifactError, match=r"a dependency is missing|nobody wrote"):
                simulate(SegmentProgram(program, compiled.weights), target, entering)


def test_reading_what_nobody_wrote_is_found() -> None:
    integer, feeds = random_network(5)
    target = small("bayes-e", 6000)
    values = run_reference(integer, feeds, keep=True)
    segment = next(s for s in split_segments(integer) if s.device == "BPU")
    compiled = compile_model(integer, target, CompileOptions("O2"))[0]
    kept = tuple(
        replace(i, after=()) for i in compiled.program.instructions if not (i.op == COPY and i.engine == "load")
    )
    program = replace(compiled.program, instructions=kept)
    with pytest.raises(ArtifactError, match="nobody wrote"):
        simulate(SegmentProgram(program, compiled.weights), target, {v.name: values[v.name] for v in segment.inputs})


def test_a_better_level_is_not_slower_and_bandwidth_mode_moves_no_more() -> None:
    for seed in (1, 2, 3):
        integer, _ = random_network(seed)
        target = small("bayes-e", 12_000)

        def cost(options: CompileOptions) -> tuple[float, int]:
            lines = [timeline(c.program, target) for c in compile_model(integer, target, options)]  # noqa: B023
            return sum(x.total_us for x in lines), sum(x.ddr_bytes for x in lines)

        fast, slow = cost(CompileOptions("O3")), cost(CompileOptions("O0"))
        assert fast[0] <= cost(CompileOptions("O2"))[0] < slow[0]
        assert fast[1] < slow[1]
        assert cost(CompileOptions("O3", "bandwidth"))[1] <= fast[1]


def test_too_many_cores_are_refused() -> None:
    integer, _ = random_network(1, 2)
    with pytest.raises(CompileError, match="core_num"):
        compile_model(integer, targets.load("bayes-e"), CompileOptions(core_num=2))


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    memory=st.sampled_from([6000, 12_000, 30_000]),
    mode=st.sampled_from(["latency", "bandwidth"]),
    cores=st.integers(1, 2),
)
def test_every_strategy_keeps_the_bits_not_only_the_best(seed: int, memory: int, mode: str, cores: int) -> None:
    integer, feeds = random_network(seed, 9)
    target, options = small("bayes-e", memory, 2), CompileOptions("O3", mode, 0, cores)  # type: ignore[arg-type]
    values = run_reference(integer, feeds, keep=True)
    for segment in split_segments(integer):
        if segment.device != "BPU":
            continue
        net = read_net(segment)
        addresses = place_tensors(net, target, share=True)
        for strategy in strategies(net, addresses, target, options):
            _, compiled = compiler._attempt(compiler._Attempt(net, addresses, target, options, strategy))
            result = simulate(compiled, target, {v.name: values[v.name] for v in segment.inputs})
            for name, array in result.outputs.items():
                np.testing.assert_array_equal(array, values[name], err_msg=f"{name}, {strategy}")
