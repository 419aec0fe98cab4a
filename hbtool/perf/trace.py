"""The timeline of every engine as a trace file for Perfetto (ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hbtool.artifact.program import ENGINES, Instruction
from hbtool.perf.order import Step, frame_steps, working_since
from hbtool.perf.report import Report, SegmentReport

_BPU, _CPU = 1, 2


def trace_json(report: Report) -> dict[str, Any]:
    """One frame in the Trace Event Format; times in microseconds, CPU parts estimated."""
    events = _names(report)
    for step in frame_steps(report):
        if step.bpu is not None:
            events += _bpu(step, step.bpu, working_since(step.bpu, report.target))
        elif step.cpu is not None:
            for node, start in _node_starts(step):
                events.append(_complete(_CPU, 0, start, node.estimate_us, node.node.name, node.node.type, {}))
    return {
        "displayTimeUnit": "ns",
        "otherData": {
            "model": report.model.name,
            "march": report.target.march,
            "source": f"{report.model.tool}: hbtool's model of the BPU; CPU parts are estimates for the board",
        },
        "traceEvents": events,
    }


def _names(report: Report) -> list[dict[str, Any]]:
    cores = max((s.program.cores for s in report.segments), default=0)
    threads = {(_BPU, _lane(engine, core)): f"core {core} {engine}" for core in range(cores) for engine in ENGINES}
    threads |= {(_BPU, 999): "function calls", (_CPU, 0): "CPU nodes (estimated for the board)"}
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
        for pid, name in ((_BPU, f"BPU {report.target.march}"), (_CPU, "CPU"))
    ]
    return events + [
        {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}
        for (pid, tid), name in threads.items()
    ]


def _lane(engine: str, core: int) -> int:
    return core * len(ENGINES) + ENGINES.index(engine)


def _bpu(step: Step, segment: SegmentReport, working: Sequence[float]) -> list[dict[str, Any]]:
    """Events of a segment; slices of one track must not overlap, so transfers stand from their first byte."""
    events = []
    begin = step.start_us
    for number, us in enumerate(segment.line.call_us):
        events.append(_complete(_BPU, 999, begin, us, f"{segment.name} call {number}", "call", {}))
        begin += us
    layers = segment.program.layers
    for i, start, since, end in zip(
        segment.program.instructions, segment.line.start_us, working, segment.line.end_us, strict=True
    ):
        lane, name = _lane(i.engine, i.core), layers[i.layer].name
        issued = {"issued (us)": round(step.start_us + start, 4)} if since > start else {}
        events.append(_complete(_BPU, lane, step.start_us + since, end - since, name, i.op, _arguments(i) | issued))
    return events


def _arguments(i: Instruction) -> dict[str, Any]:
    job = i.job
    numbers = {"MACs": job.macs, "vector ops": job.vector_ops}
    numbers |= {"loaded bytes": job.loaded_bytes, "stored bytes": job.stored_bytes}
    return {"op": i.op} | {k: v for k, v in numbers.items() if v}


def _node_starts(step: Step) -> list[tuple[Any, float]]:
    assert step.cpu is not None
    now, starts = step.start_us, []
    for node in step.cpu.nodes:
        starts.append((node, now))
        now += node.estimate_us
    return starts


def _complete(
    pid: int, tid: int, start_us: float, us: float, name: str, category: str, arguments: dict[str, Any]
) -> dict[str, Any]:
    event: dict[str, Any] = {"ph": "X", "pid": pid, "tid": tid, "ts": round(start_us, 4), "dur": round(us, 4)}
    event |= {"name": name, "cat": category}
    return event | ({"args": arguments} if arguments else {})
