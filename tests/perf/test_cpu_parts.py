"""Every CPU part says where it stands, what it costs, and which key removes it."""

from __future__ import annotations

import pytest

from hbtool.flows.perf import report_of
from hbtool.perf.board_cores import board_cores
from hbtool.perf.cuts import CpuPart, NodeRemedy
from hbtool.perf.report import Report
from hbtool.runtime.artifact import Artifact


def part_with(report: Report, node: str) -> CpuPart:
    return next(p for p in report.cpu if any(n.node.name == node for n in p.nodes))


def remedy(report: Report, node: str) -> NodeRemedy:
    return next(n for p in report.cpu for n in p.nodes if n.node.name == node)


@pytest.mark.parametrize(
    ("node", "role", "key"),
    [
        ("forced", "middle", "calibration_parameters.run_on_cpu, model_parameters.node_info"),
        ("manual", "middle", "calibration_parameters.run_on_bpu"),
        ("unknown", "middle", ""),
        ("flat", "tail", "model_parameters.remove_node_type"),
    ],
)
def test_reason_and_place_give_the_key(reports: dict[str, Report], node: str, role: str, key: str) -> None:
    report = reports["good"]
    assert part_with(report, node).role == role
    assert remedy(report, node).key == key
    assert remedy(report, node).node.reason


def test_a_part_with_a_stuck_node_names_no_key(reports: dict[str, Report]) -> None:
    stuck, free = part_with(reports["good"], "unknown"), part_with(reports["good"], "manual")
    assert (stuck.stuck, stuck.keys) == (1, ())
    assert (free.stuck, free.keys) == (0, ("calibration_parameters.run_on_bpu",))


def test_a_cut_costs_its_nodes_transfers_and_a_launch(reports: dict[str, Report]) -> None:
    report = reports["good"]
    cut = part_with(report, "forced")
    cores = board_cores(report.target.family)
    assert cut.estimate_us == pytest.approx(sum(n.node.bytes for n in cut.nodes) * cores.ns_per_byte / 1e3)
    # forced: 16 channels of 32x32, once as float in and once out; the values leave and enter the BPU as integers.
    assert remedy(report, "forced").node.bytes == 2 * 4 * 16 * 32 * 32
    assert cut.ddr_bytes >= 2 * 16 * 32 * 32
    assert cut.ddr_us == pytest.approx(cut.ddr_bytes / report.target.ddr_bytes_per_second * 1e6)
    assert cut.launch_us == report.target.launch_us
    assert 0 < cut.quantize_bytes < cut.moved_bytes
    tail = part_with(report, "flat")
    assert (tail.ddr_bytes, tail.launch_us) == (0, 0)


def test_dequantize_at_the_published_rate() -> None:
    """hardware.md: 2.0 ns per float32 output element; an int32 element is read and a float32 written."""
    assert board_cores("bayes-e").us(8 * 1_209_600) == pytest.approx(2.0 * 1_209_600 / 1e3)


def test_cpu_parts_are_timed_on_this_pc_only_on_request(
    artifacts: dict[str, Artifact], reports: dict[str, Report]
) -> None:
    assert reports["good"].cpu_host_us is None
    assert {p.host_note for p in reports["good"].cpu} == {"not asked for"}
    timed = report_of(artifacts["good"])
    assert timed.cpu_host_us is not None and timed.cpu_host_us > 0
    assert all(p.host_us is not None and p.host_us > 0 for p in timed.cpu)


def test_warnings(reports: dict[str, Report]) -> None:
    good, slow = "\n".join(reports["good"].warnings), "\n".join(reports["slow"].warnings)
    assert "3 CPU parts between BPU segments" in good
    assert "2 of 3 can be removed by configuration" in good
    assert "1 of 3 need a change of the model" in good
    assert "O0" not in good and "debug" not in good
    assert "optimize_level O0" in slow and "debug: false" in slow
