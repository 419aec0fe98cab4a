"""The report in five lines."""

from __future__ import annotations

from hbtool.perf.critical import RESOURCE_NAMES
from hbtool.perf.report import Report
from hbtool.perf.units import bytes_text, ops_text, rate_text, time_text


def summary_lines(report: Report) -> tuple[str, ...]:
    """Latency, work, DDR, memory, CPU: one line each."""
    return (_speed(report), _work(report), _ddr(report), _memory(report), _cpu(report))


def largest_parts(report: Report, most: int = 3) -> list[tuple[str, float]]:
    """The resources the latency goes to, with their share (0 to 1), largest first."""
    total = report.latency_us or 1.0
    parts = sorted(report.resources_us.items(), key=lambda item: -item[1])
    return [(RESOURCE_NAMES[r], us / total) for r, us in parts[:most] if us > 0.005 * total]


def cpu_range_us(report: Report) -> tuple[float, float]:
    """Lowest and highest estimate of the CPU's share of a frame on the board, submitting it included."""
    low, high = report.cores.task_us
    return low + report.cpu_estimate_us, high + report.cpu_estimate_us


def _speed(report: Report) -> str:
    target, cores = report.target, max((s.program.cores for s in report.segments), default=0)
    machine = f"{cores} core{'' if cores == 1 else 's'} of {target.march} at {target.clock_hz / 1e9:g} GHz"
    return (
        f"Latency  {time_text(report.latency_us)} on the BPU, {rate_text(report.frames_per_second)} FPS "
        f"({machine}; CPU parts not included)"
    )


def _work(report: Report) -> str:
    parts = ", ".join(f"{name} {share:.0%}" for name, share in largest_parts(report))
    return (
        f"Work     {ops_text(report.ops)}, BPU utilisation {report.utilisation:.1%}; the time goes to: {parts or '-'}"
    )


def _ddr(report: Report) -> str:
    frames = report.model.frames_per_run
    per_second = report.ddr_bytes * 1e6 / report.latency_us if report.latency_us else 0.0
    loaded, stored = bytes_text(report.loaded_bytes / frames), bytes_text(report.stored_bytes / frames)
    total = bytes_text(report.ddr_bytes / frames)
    return f"DDR      {total} per frame (loaded {loaded}, stored {stored}), {bytes_text(per_second)}/s"


def _memory(report: Report) -> str:
    return (
        f"Memory   on-chip peak {bytes_text(report.onchip_peak_bytes)} of {bytes_text(report.onchip_bytes)}, "
        f"weights {bytes_text(report.weights_bytes)}"
    )


def _cpu(report: Report) -> str:
    if not report.cpu:
        return "CPU      nothing runs on the CPU"
    nodes = sum(len(part.nodes) for part in report.cpu)
    low, high = cpu_range_us(report)
    measured = f", {time_text(report.cpu_host_us)} measured on this PC" if report.cpu_host_us is not None else ""
    cuts = f"{len(report.cuts)} cut{'' if len(report.cuts) == 1 else 's'} between BPU segments"
    return (
        f"CPU      {nodes} node{'' if nodes == 1 else 's'}, {cuts}; about {time_text(low)} to {time_text(high)} on the "
        f"board ({report.cores.cores}, estimate){measured}"
    )
