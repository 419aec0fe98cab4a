"""The report says what the timeline says, and nothing is lost or counted twice on the way."""

from __future__ import annotations

import dataclasses
import time

import pytest
from made_up import chain, load, matrix, model, program, step, store

from hbtool.perf.critical import NO_LAYER, attribute_latency
from hbtool.perf.curves import MOST_INTERVALS, interval_curves
from hbtool.perf.report import Report, SegmentReport, make_report, peak_ops
from hbtool.perf.timeline import timeline
from hbtool.target.target import Target

NAMES = ("good", "slow", "two")


def segments(report: Report) -> list[SegmentReport]:
    assert report.segments
    return list(report.segments)


@pytest.mark.parametrize("name", NAMES)
def test_layers_add_up_to_the_program(reports: dict[str, Report], name: str) -> None:
    for s in segments(reports[name]):
        assert sum(layer.loaded_bytes for layer in s.layers) == s.line.loaded_bytes
        assert sum(layer.stored_bytes for layer in s.layers) == s.line.stored_bytes
        assert s.ops == 2 * sum(info.macs for info in s.program.layers) <= s.executed_ops
        for layer in s.layers:
            if layer.start_us is not None and layer.end_us is not None:
                assert 0 <= layer.start_us <= layer.end_us <= s.latency_us
            assert layer.aligned_bytes >= layer.bytes


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_the_latency_add_up(reports: dict[str, Report], name: str) -> None:
    report = reports[name]
    for s in segments(report):
        assert sum(s.resources_us.values()) == pytest.approx(s.latency_us)
        of_layers = sum(layer.latency_us for layer in s.layers)
        launches = report.target.launch_us * s.program.calls
        assert of_layers + launches + s.resources_us["wait"] == pytest.approx(s.latency_us)
        assert s.resources_us["wait"] <= 1e-3 * s.latency_us


@pytest.mark.parametrize("name", NAMES)
def test_totals_are_sums_of_segments(reports: dict[str, Report], name: str) -> None:
    report = reports[name]
    assert report.latency_us == pytest.approx(sum(timeline(s.program, report.target).total_us for s in report.segments))
    assert report.frames_per_second == pytest.approx(1e6 / report.latency_us)
    assert report.ddr_bytes == sum(s.line.loaded_bytes + s.line.stored_bytes for s in report.segments)
    assert 0 < report.utilisation < 1
    possible = sum(peak_ops(report.target, s.program.cores, s.latency_us) for s in report.segments)
    assert report.utilisation == pytest.approx(report.ops / possible)
    assert report.onchip_peak_bytes <= report.onchip_bytes


@pytest.mark.parametrize("name", NAMES)
def test_curves_hold_all_work_and_never_exceed_the_machine(reports: dict[str, Report], name: str) -> None:
    report = reports[name]
    for s in segments(report):
        seconds = s.curves.interval_us / 1e6
        assert s.curves.number <= MOST_INTERVALS
        assert s.curves.number * s.curves.interval_us >= s.latency_us * (1 - 1e-9)
        assert sum(s.curves.load_bytes_per_second) * seconds == pytest.approx(s.line.loaded_bytes)
        assert sum(s.curves.store_bytes_per_second) * seconds == pytest.approx(s.line.stored_bytes)
        executed = sum(s.curves.utilisation) * peak_ops(report.target, s.program.cores, s.curves.interval_us)
        assert executed == pytest.approx(s.executed_ops)
        both = zip(s.curves.load_bytes_per_second, s.curves.store_bytes_per_second, strict=True)
        assert max(a + b for a, b in both) <= report.target.ddr_bytes_per_second * (1 + 1e-6)
        assert max(s.curves.utilisation) <= 1 + 1e-9


def test_a_chain_is_attributed_to_the_microsecond(machine: Target) -> None:
    moved = 6500
    one = program([step("load", 0, load(moved)), step("matrix", 1, matrix(800), 0), step("store", 1, store(moved), 1)],
                  ["a", "b"], machine)  # fmt: skip
    line = timeline(one, machine)
    parts = attribute_latency(one, machine, line).us
    transfer = moved / machine.ddr_bytes_per_second * 1e6
    latency = machine.us(machine.dma_latency_cycles)
    compute = machine.us(machine.cycles(matrix(800)))
    assert parts == {
        (NO_LAYER, "launch"): pytest.approx(machine.launch_us),
        (0, "load"): pytest.approx(transfer),
        (0, "latency"): pytest.approx(latency),
        (1, "matrix"): pytest.approx(compute),
        (1, "store"): pytest.approx(transfer),
        (1, "latency"): pytest.approx(latency),
    }


def test_a_transfer_that_waits_for_the_memory_is_not_blamed_for_the_wait(machine: Target) -> None:
    big, small = 650_000, 650
    one = program([step("load", 0, load(big)), step("load", 1, load(small)), step("matrix", 1, matrix(8), 1)],
                  ["big", "small"], machine)  # fmt: skip
    parts = attribute_latency(one, machine, timeline(one, machine))
    assert parts.by_layer()[0]["load"] == pytest.approx(big / machine.ddr_bytes_per_second * 1e6)
    assert parts.by_layer()[1]["load"] == pytest.approx(small / machine.ddr_bytes_per_second * 1e6)


def test_a_layer_behind_others_is_hidden(machine: Target) -> None:
    one = program([step("matrix", 0, matrix(80_000)), step("load", 1, load(64)), step("store", 0, store(64), 0)],
                  ["long", "beside"], machine)  # fmt: skip
    report = make_report(model(one, machine))
    assert [layer.limit for layer in report.segments[0].layers] == [
        "multiply-accumulate array",
        "hidden behind other layers",
    ]
    assert report.segments[0].layers[1].latency_us == 0


def test_function_calls_each_have_their_launch(machine: Target) -> None:
    one = program([step("load", 0, load(640)), step("matrix", 0, matrix(80), call=1)], ["a"], machine)
    report = make_report(model(one, machine))
    assert report.resources_us["launch"] == pytest.approx(2 * machine.launch_us)
    assert sum(report.resources_us.values()) == pytest.approx(report.latency_us)


def test_faster_memory_helps_only_what_the_report_blames_on_memory(machine: Target) -> None:
    """What the report calls DDR time is what infinitely fast memory wins at most, and never less than nothing."""
    before = make_report(model(chain(40, machine), machine))
    fast = dataclasses.replace(machine, ddr_bytes_per_second=machine.ddr_bytes_per_second * 1e6, dma_latency_cycles=0)
    after = make_report(model(chain(40, machine), fast))
    parts = before.resources_us
    won = before.latency_us - after.latency_us
    assert 0 < won <= parts["load"] + parts["store"] + parts["latency"] + 1e-6


def test_a_program_without_instructions_costs_nothing(machine: Target) -> None:
    report = make_report(model(program([], ["idle"], machine), machine))
    assert report.latency_us == report.frames_per_second == report.utilisation == 0
    assert interval_curves(program([], ["idle"], machine), machine, report.segments[0].line).number == 1


def test_advice_names_layers_far_from_the_ideal(reports: dict[str, Report]) -> None:
    advice = [w for w in reports["slow"].warnings if w.startswith("Advice")]
    slow = [
        layer
        for s in reports["slow"].segments
        for layer in s.layers
        if layer.compute_us - layer.ops / peak_ops(reports["slow"].target, 1, 1.0) > 1
    ]
    assert len(advice) == len(slow) > 0
    assert all(any(layer.name in text for text in advice) for layer in slow)
    assert not any(w.startswith("Advice") for w in reports["good"].warnings)


def test_a_deep_model_takes_time_in_proportion(machine: Target) -> None:
    """Ten times the layers, at most twenty times the time (a square would be a hundred)."""

    def seconds(layers: int) -> float:
        fact = model(chain(layers, machine), machine)
        since = time.process_time()
        make_report(fact)
        return time.process_time() - since

    seconds(100)
    assert seconds(20_000) < 20 * max(seconds(2_000), 0.02)


def test_calls_longer_than_their_limit_are_named(machine: Target) -> None:
    compiled = chain(3, machine)
    longest = max(timeline(compiled, machine).call_us)
    for limit, told in ((int(longest) - 1, 1), (int(longest) + 1, 0)):
        limited = dataclasses.replace(compiled, options=f"--O2 --core-num 1 --max-time-per-fc {limit}")
        found = [w for w in make_report(model(limited, machine)).warnings if "max_time_per_fc" in w]
        assert len(found) == told
        assert all(f"{limit} us" in w and limited.name in w for w in found)
