"""One frame on one time axis: segments one after another, CPU parts with their estimated time between them."""

from __future__ import annotations

from dataclasses import dataclass

from hbtool.perf.cuts import CpuPart
from hbtool.perf.report import Report, SegmentReport
from hbtool.target.target import Target


@dataclass(frozen=True)
class Step:
    """A segment of a frame.

    Attributes:
        start_us: when it starts, microseconds from the start of the frame.
        us: how long it takes (estimated, for the CPU).
        bpu: the BPU segment, if it is one.
        cpu: the CPU segment, if it is one.
    """

    start_us: float
    us: float
    bpu: SegmentReport | None = None
    cpu: CpuPart | None = None


def frame_steps(report: Report) -> tuple[Step, ...]:
    """The segments of a frame in execution order; submitting the frame is not among them."""
    bpu = {s.name: s for s in report.segments}
    cpu = {p.name: p for p in report.cpu}
    steps: list[Step] = []
    now = 0.0
    for fact in report.model.segments:
        segment, part = bpu.get(fact.name), cpu.get(fact.name)
        us = segment.latency_us if segment is not None else part.estimate_us if part is not None else 0.0
        steps.append(Step(now, us, segment, part))
        now += us
    return tuple(steps)


def working_since(segment: SegmentReport, target: Target) -> tuple[float, ...]:
    """When each instruction begins to use its engine, microseconds from the start of the segment.

    A transfer counts from its first byte: neither the latency in front of it nor the wait for the memory, which
    overlap with other transfers.
    """
    line = segment.line
    since = []
    for i, start, end in zip(segment.program.instructions, line.start_us, line.end_us, strict=True):
        moved = i.job.loaded_bytes + i.job.stored_bytes
        since.append(max(start, end - target.us(target.transfer_cycles(moved))) if moved else start)
    return tuple(since)
