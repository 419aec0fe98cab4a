"""docs/latency.md: one part per board, every network with its published and its estimated figures."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import spearmanr

from hbtool.artifact.program import Program
from hbtool.perf.timeline import timeline
from hbtool.target.target import Target

HEAD = """# Estimated and measured latency

Written by `python tools/fit_targets.py SHARED --board BOARD --write`; all programs are compiled at O3. Measured:
the milliseconds per frame and core that the BPU bounds, published for real boards (CPU nodes, dequantization and
submission are not in them). Weights are random; latency depends on shapes. Networks are sorted by name; every other one
is *fitted*, the rest is *held out*. Networks that stand *apart* are neither: what is published about them cannot belong
to the graph at hand, contradicts itself, or need not be bound by the BPU (the reason is below the table; no estimate
decides it).

"""


@dataclass(frozen=True)
class Point:
    """One network on one board: published milliseconds, its programs, why it stands apart, and for what it stands."""

    name: str
    measured_ms: float
    programs: tuple[Program, ...]
    apart: str = ""
    stands_for: str = ""

    @property
    def ddr_bytes(self) -> int:
        """Bytes that the programs move to and from DDR."""
        return sum(i.job.loaded_bytes + i.job.stored_bytes for p in self.programs for i in p.instructions)


def estimate_ms(point: Point, target: Target) -> float:
    """Milliseconds of all segments."""
    return sum(timeline(p, target).total_us for p in point.programs) / 1e3


def summary(points: Sequence[Point], target: Target) -> str:
    """Median error and rank correlation in words."""
    estimates = [estimate_ms(p, target) for p in points]
    off = [abs(e / p.measured_ms - 1) for e, p in zip(estimates, points, strict=True)]
    text = f"{len(points)} networks, median error {100 * statistics.median(off):.1f} %"
    if len(points) > 2:
        rank = spearmanr([p.measured_ms for p in points], estimates).statistic
        text += f", rank correlation {rank:.3f}"
    return text


def board_part(title: str, notes: Iterable[str], points: Sequence[Point], fitted: set[str], target: Target) -> str:
    """A board's part of the page."""
    lines = [f"## {title}", ""]
    for note in notes:
        lines += [note, ""]
    lines += ["| network | measured ms | estimated ms | error | half | DDR MB |", "|---|---|---|---|---|---|"]
    for p in points:
        ms = estimate_ms(p, target)
        half = "apart" if p.apart else "fitted" if p.name in fitted else "held out"
        error = f"{100 * (ms / p.measured_ms - 1):+.0f} %"
        lines.append(f"| {p.name} | {p.measured_ms:.3f} | {ms:.3f} | {error} | {half} | {p.ddr_bytes / 1e6:.1f} |")
    compared = [p for p in points if not p.apart]
    halves = {
        "fitted": [p for p in compared if p.name in fitted],
        "held out": [p for p in compared if p.name not in fitted],
        "all that can be compared": compared,
        "all, also those apart": points if len(points) > len(compared) else [],
    }
    lines += ["", *(f"* {half}: {summary(found, target)}." for half, found in halves.items() if found)]
    lines += [f"* apart: {p.name}: {p.apart}." for p in points if p.apart]
    lines += [f"* {p.name} stands for {p.stands_for}; time by operations." for p in points if p.stands_for]
    return "\n".join(lines) + "\n"


def ddr_part(title: str, points: Sequence[Point], stated: dict[str, float]) -> str:
    """The part about DDR bytes."""
    found = [p for p in points if p.name in stated]
    off = [p.ddr_bytes / stated[p.name] - 1 for p in found]
    lines = [
        f"## {title}",
        "",
        "DDR bytes of one frame: hbtool's program, and what the vendor's compiler stated for the same network and "
        "input size (int8 Softmax, the graph as exported; median where there are several logs). "
        f"{len(found)} networks, median error {100 * statistics.median(abs(x) for x in off):.1f} %.",
        "",
        "| network | stated MB | hbtool MB | error |",
        "|---|---|---|---|",
    ]
    for p, error in zip(found, off, strict=True):
        mb = (stated[p.name] / 1e6, p.ddr_bytes / 1e6)
        lines.append(f"| {p.name} | {mb[0]:.1f} | {mb[1]:.1f} | {100 * error:+.0f} % |")
    return "\n".join(lines) + "\n"


def write_part(page: Path, part: str) -> None:
    """Replace one part of the page (parts are told apart by their title)."""
    title = part.splitlines()[0]
    old = page.read_text() if page.exists() else ""
    parts = {p.splitlines()[0]: p for p in re.split(r"(?m)^(?=## )", old)[1:] if p.strip()}
    parts[title] = part
    page.write_text(HEAD + "\n".join(parts[key].rstrip() + "\n" for key in sorted(parts)))
