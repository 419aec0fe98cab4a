"""The timeline as bars for drawing; instructions of one layer are merged where nobody can see more."""

from __future__ import annotations

from typing import Any

from hbtool.artifact.program import ENGINES
from hbtool.perf.order import frame_steps, working_since
from hbtool.perf.report import Report

MOST_BARS = 40_000
"""Above about this many instructions, bars of one layer that nearly touch are merged."""

_LANE_NAMES = {"load": "DDR load", "matrix": "MAC array", "vector": "vector unit", "store": "DDR store"}


def timeline_bars(report: Report) -> dict[str, Any]:
    """Lanes and bars of one frame, as columns.

    Returns:
        `lanes`: names and kinds; `names`: (title, detail) of layers and nodes; `lane`, `start`, `length`, `name`: one
        entry per bar, times in nanoseconds; `steps`: (start, length, title) of segments; `total`: length of the frame.
    """
    cores = max((s.program.cores for s in report.segments), default=0)
    shown = [(engine, core) for core in range(cores) for engine in ENGINES]
    lanes: list[tuple[str, str]] = [("CPU (estimate)", "cpu")] if report.cpu else []
    lanes += [("call launch", "launch")] if cores else []
    first = len(lanes)
    lanes += [(f"{_LANE_NAMES[e]}{f' {c}' if cores > 1 else ''}", e) for e, c in shown]
    index = {key: first + n for n, key in enumerate(shown)}
    columns = _Columns(report)
    for step in frame_steps(report):
        if step.cpu is not None:
            now = step.start_us
            for node in step.cpu.nodes:
                number = columns.named(node.node.name, f"{node.node.type} on the CPU, estimate")
                columns.add(0, now, now + node.estimate_us, number)
                now += node.estimate_us
        elif step.bpu is not None:
            numbers = [columns.named(layer.name, f"{layer.op}, {step.bpu.name}") for layer in step.bpu.layers]
            launch, begin = columns.named("launch", f"function calls of {step.bpu.name}"), step.start_us
            for call_us in step.bpu.line.call_us:
                columns.add(first - 1, begin, begin + report.target.launch_us, launch)
                begin += call_us
            working = working_since(step.bpu, report.target)
            for i, start, end in zip(step.bpu.program.instructions, working, step.bpu.line.end_us, strict=True):
                columns.add(index[i.engine, i.core], step.start_us + start, step.start_us + end, numbers[i.layer])
    return {"lanes": lanes, **columns.packed()}


class _Columns:
    def __init__(self, report: Report) -> None:
        steps = frame_steps(report)
        self.total_us = steps[-1].start_us + steps[-1].us if steps else 0.0
        self.steps = [
            (_ns(s.start_us), _ns(s.us), s.bpu.name if s.bpu is not None else s.cpu.name if s.cpu is not None else "")
            for s in steps
        ]
        count = sum(len(s.program.instructions) for s in report.segments)
        self.gap_us = self.total_us / MOST_BARS if count > MOST_BARS else float("-inf")
        self.names: list[tuple[str, str]] = []
        self.bars: list[tuple[int, float, float, int]] = []
        self.last: dict[int, int] = {}

    def named(self, title: str, detail: str) -> int:
        self.names.append((title, detail))
        return len(self.names) - 1

    def add(self, lane: int, start_us: float, end_us: float, name: int) -> None:
        previous = self.last.get(lane)
        if previous is not None:
            _, begin, until, same = self.bars[previous]
            if same == name and start_us - until <= self.gap_us:
                self.bars[previous] = (lane, begin, max(until, end_us), name)
                return
        self.last[lane] = len(self.bars)
        self.bars.append((lane, start_us, end_us, name))

    def packed(self) -> dict[str, Any]:
        return {
            "total": _ns(self.total_us),
            "steps": self.steps,
            "names": self.names,
            "lane": [b[0] for b in self.bars],
            "start": [_ns(b[1]) for b in self.bars],
            "length": [_ns(b[2] - b[1]) for b in self.bars],
            "name": [b[3] for b in self.bars],
        }


def _ns(us: float) -> int:
    return round(us * 1e3)
