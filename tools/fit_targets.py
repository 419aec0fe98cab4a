"""Fits the free figures of a target to published board latencies, on half of the networks, and reports the other half.

    python tools/fit_targets.py SHARED_FOLDER --board X5 [--most-mparams 40] [--write]

The knobs are physical and belong to the machine, never to a network: DDR bandwidth, transfer latency, fixed cycles of
an instruction, rates of the vector unit and of depthwise convolutions, launch time, and how the array divides its
multipliers. A knob changes the timeline of compiled programs; after each pass the programs are compiled again for the
figures found, and the report is about programs compiled for the final ones. Networks are sorted by name; every other
one is fitted. `--as MARCH` takes over the figures per cycle of another march (the same array at another clock) and fits
only what lies outside the array. `--write` stores the figures in the target file and the table in docs/latency.md.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
from integer_networks import integer_network
from scipy.stats import spearmanr

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool import target as targets
from hbtool.artifact.program import Program
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.perf.timeline import timeline
from hbtool.target.target import Target

ROOT = Path(__file__).resolve().parents[1]
MARCH = {"X3": "bernoulli2", "X5": "bayes-e", "S100": "nash-e", "S100P": "nash-m", "Ultra (J5)": "bayes"}
FACTORS = {
    "ddr_bytes_per_second": (0.7, 0.85, 0.93, 1.07, 1.2, 1.5),
    "dma_latency_cycles": (0.5, 0.75, 1.5, 2.0),
    "instruction_cycles": (0.3, 0.6, 0.8, 1.25, 1.7, 3.0),
    "vector_ops": (0.25, 0.5, 0.75, 1.3, 2.0, 4.0),
    "depthwise_macs": (0.25, 0.5, 0.75, 1.3, 2.0, 4.0),
    "launch_us": (0.25, 0.6, 1.5, 3.0),
}
OUTSIDE = ("ddr_bytes_per_second", "launch_us")
"""Knobs that two chips with the same array do not share."""

FEW = 8
"""With fewer networks than this each is held out once (leave one out), and the figures written are fitted to all."""

LEAST_DDR = {"bernoulli2": 2.5e9, "bayes-e": 6.3e9, "nash-e": 25e9, "nash-m": 32e9}
"""Bytes per second (of one core) that published frame rates need at least: int8 weights times frames per second."""

KNOBS = (*FACTORS, "matrix_outputs", "matrix_inputs", "matrix_width")
ROUNDS = 4


@dataclass(frozen=True)
class Point:
    """One network on one board: measured milliseconds per frame, its programs, published DDR bytes (0: none)."""

    name: str
    measured_ms: float
    programs: tuple[Program, ...]
    published_ddr_bytes: float


def measured(shared: Path, board: str) -> dict[str, float]:
    """Architecture -> median of its published milliseconds per frame on the board, CPU nodes left out."""
    rows: dict[str, list[float]] = {}
    with (shared / "reference" / "board_latency.csv").open() as file:
        for row in csv.DictReader(file):
            if row["board"] == f"RDK {board}" and row["bpu_bound_ms_per_frame_per_core"] and row["kind"] == "measured":
                rows.setdefault(row["model"], []).append(float(row["bpu_bound_ms_per_frame_per_core"]))
    result = {}
    with (shared / "architectures" / "INDEX.csv").open() as file:
        for row in csv.DictReader(file):
            values = [v for name in _names(row["board_rows"], f"{board} measured: ") for v in rows.get(name, [])]
            if values:
                result[row["model"]] = statistics.median(values)
    return result


def published_ddr(shared: Path) -> dict[str, float]:
    """Architecture -> median of the DDR bytes that the vendor's compiler stated for it (same input size only)."""
    stated: dict[str, list[float]] = {}
    with (shared / "reference" / "static_estimates.csv").open() as file:
        for row in csv.DictReader(file):
            if row["static_ddr_bytes"]:
                stated.setdefault(f"{row['model']}@{row['input_hw']}", []).append(float(row["static_ddr_bytes"]))
    result = {}
    with (shared / "architectures" / "INDEX.csv").open() as file:
        for row in csv.DictReader(file):
            size = row["input"].split("x")[-1]
            values = [v for n in _names(row["board_rows"], "static: ") for v in stated.get(f"{n}@{size}", [])]
            if values:
                result[row["model"]] = statistics.median(values)
    return result


def _names(text: str, prefix: str) -> list[str]:
    parts = [part.strip() for part in text.split("|")]
    return [name.strip() for part in parts if part.startswith(prefix) for name in part[len(prefix) :].split(";")]


def compiled(shared: Path, name: str, target: Target, level: str, cache: Path | None) -> tuple[Program, ...]:
    """The programs of an architecture."""
    stored = cache / target.family / f"{name}.onnx" if cache else None
    if stored is not None and stored.exists():
        model = ir.load(stored)
    else:
        source = shared / "architectures" / f"{name}.onnx"
        model = integer_network(source, target.family, target.multiplier_bits)
        if stored is not None:
            stored.parent.mkdir(parents=True, exist_ok=True)
            ir.save(model, stored)
    return tuple(c.program for c in compile_model(model, target, CompileOptions(level)))  # type: ignore[arg-type]


def estimate_ms(point: Point, target: Target) -> float:
    """Milliseconds of all segments."""
    return sum(timeline(p, target).total_us for p in point.programs) / 1e3


def errors(points: Sequence[Point], target: Target) -> list[float]:
    """estimate / measured - 1 of each point."""
    return [estimate_ms(p, target) / p.measured_ms - 1 for p in points]


def loss(points: Sequence[Point], target: Target) -> float:
    """Mean of |log(estimate / measured)|, large misses counted no more than a factor of two."""
    return statistics.mean(min(abs(math.log1p(e)), 0.7) for e in errors(points, target))


def arrays(target: Target) -> list[dict[str, int]]:
    """Ways to divide the same number of multipliers among outputs, inputs and width."""
    total, found = target.macs_per_cycle, []
    for outputs in (8, 16, 32, 64):
        for inputs in (4, 8, 16, 32, 64):
            width = total // (outputs * inputs)
            if 1 <= width <= 16:
                found.append({"matrix_outputs": outputs, "matrix_inputs": inputs, "matrix_width": width})
    return found


def bounds(target: Target, knob: str) -> tuple[float, float]:
    """What is physically plausible.

    100 to 2000 cycles from a request to its first byte, 5 us at least to start a call, the DDR bandwidth that published
    frame rates need, and no more depthwise multiplications per cycle than the array has multipliers.
    """
    limits = {
        "dma_latency_cycles": (100.0, 2000.0),
        "launch_us": (5.0, 500.0),
        "depthwise_macs": (1.0, float(target.macs_per_cycle)),
        "ddr_bytes_per_second": (LEAST_DDR.get(target.march, 1e9), math.inf),
    }
    return limits.get(knob, (0.0, math.inf))


def held_out_once(points: Sequence[Point], target: Target, say: Callable[[str], None], knobs: Sequence[str]) -> float:
    """Median error of networks, each estimated by figures fitted to all the others."""
    off = []
    for one in points:
        without = fit([p for p in points if p is not one], target, say, knobs)
        off.append(abs(estimate_ms(one, without) / one.measured_ms - 1))
    return statistics.median(off)


def fit(points: Sequence[Point], target: Target, say: Callable[[str], None], knobs: Sequence[str]) -> Target:
    """Coordinate descent over the knobs (the division of the array is tried where it is not shared)."""
    best, value = target, loss(points, target)
    for number in range(ROUNDS):
        before = value
        for division in arrays(target) if "matrix_outputs" in knobs else []:
            trial = replace(best, **division)
            if (score := loss(points, trial)) < value - 1e-4:
                best, value = trial, score
        for knob, factors in FACTORS.items():
            if knob not in knobs:
                continue
            now = getattr(best, knob)
            low, high = bounds(best, knob)
            for factor in factors:
                figure = min(max(now * factor, low), high)
                trial = replace(best, **{knob: round(figure) if isinstance(now, int) else figure})
                if (score := loss(points, trial)) < value - 1e-4:
                    best, value = trial, score
        say(f"round {number + 1}: loss {value:.4f}")
        if before - value < 1e-3:
            break
    return best


def table(points: Sequence[Point], fitted: set[str], apart: set[str], target: Target, title: str, note: str) -> str:
    """The report in Markdown."""
    lines = [
        title,
        "",
        note,
        "",
        "| network | measured ms | estimated ms | error | half | DDR MB | published DDR MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for p in points:
        ddr = sum(i.job.loaded_bytes + i.job.stored_bytes for q in p.programs for i in q.instructions)
        ms = estimate_ms(p, target)
        stated = f"{p.published_ddr_bytes / 1e6:.1f}" if p.published_ddr_bytes else ""
        half = "apart" if p.name in apart else "fitted" if p.name in fitted else "held out"
        error = f"{100 * (ms / p.measured_ms - 1):+.0f} %"
        lines.append(f"| {p.name} | {p.measured_ms:.3f} | {ms:.3f} | {error} | {half} | {ddr / 1e6:.1f} | {stated} |")
    for half, chosen in (
        ("fitted", [p for p in points if p.name in fitted]),
        ("held out", [p for p in points if p.name not in fitted | apart]),
    ):
        if len(chosen) > 2:
            off = [abs(e) for e in errors(chosen, target)]
            rank = spearmanr([p.measured_ms for p in chosen], [estimate_ms(p, target) for p in chosen]).statistic
            lines += [
                "",
                f"{half}: {len(chosen)} networks, median error {100 * statistics.median(off):.1f} %, "
                f"rank correlation {rank:.3f}.",
            ]
    stated_ddr = [p for p in points if p.published_ddr_bytes]
    if stated_ddr:
        off = [
            abs(
                sum(i.job.loaded_bytes + i.job.stored_bytes for q in p.programs for i in q.instructions)
                / p.published_ddr_bytes
                - 1
            )
            for p in stated_ddr
        ]
        lines += ["", f"DDR bytes: {len(off)} networks, median error {100 * statistics.median(off):.1f} %."]
    return "\n".join(lines) + "\n"


def write_target(target: Target, fitted_on: int, knobs: Sequence[str], shared_with: str | None) -> None:
    """Store the fitted figures in the target's file."""
    path = ROOT / "hbtool" / "target" / f"{target.march}.yaml"
    text = path.read_text()
    for knob in KNOBS:
        value = getattr(target, knob)
        shown = f"{value}" if isinstance(value, int) else f"{value:.6g}" if value < 1e6 else f"{value:.1f}"
        source = f"fitted by tools/fit_targets.py to {fitted_on} networks (docs/latency.md)"
        if knob not in knobs:
            source = f"as {shared_with}: the same array, frame rates grow with the clock"
        text = re.sub(rf"^{knob}: .*$", f'{knob}: {{value: {shown}, source: "{source}"}}', text, flags=re.MULTILINE)
    path.write_text(text)


def write_docs(report: str, board: str) -> None:
    """Replace the board's part of docs/latency.md."""
    path = ROOT / "docs" / "latency.md"
    head = (
        "# Estimated and measured latency\n\nWritten by tools/fit_targets.py. Measured: published board figures, bound "
        "by the BPU (CPU nodes, dequantization and submission not included). Networks sorted by name; every other one "
        "was used to fit the target's free figures, the rest was held out. Weights are random; latency depends on "
        "shapes.\n\n"
    )
    text = path.read_text() if path.exists() else head
    parts = [p for p in re.split(r"(?m)^(?=## )", text) if p.strip()]
    parts = [p for p in parts if not p.startswith(f"## {board} (")]
    path.write_text("\n".join(p.rstrip() + "\n" for p in [parts[0], *sorted([*parts[1:], report])]))


def starting_figures(target: Target, take_from: str | None) -> Target:
    """The march as it is, with the shared figures of another one, inside the bounds."""
    if take_from:
        other = targets.load(take_from)
        target = replace(target, **{knob: getattr(other, knob) for knob in KNOBS if knob not in OUTSIDE})
    for knob in FACTORS:
        low, high = bounds(target, knob)
        target = replace(target, **{knob: type(getattr(target, knob))(min(max(getattr(target, knob), low), high))})
    return target


def chosen_names(shared: Path, known: Mapping[str, float], wanted: str | None, most_mparams: float) -> list[str]:
    """Networks asked for, sorted by name."""
    with (shared / "architectures" / "INDEX.csv").open() as file:
        size = {row["model"]: float(row["params_M"]) for row in csv.DictReader(file)}
    names = wanted.split(",") if wanted else list(known)
    if missing := sorted(set(names) - set(known)):
        raise SystemExit(f"no measured latency on this board for {', '.join(missing)}")
    return sorted(name for name in names if size[name] <= most_mparams)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--board", choices=sorted(MARCH), default="X5")
    parser.add_argument("--level", default="O3")
    parser.add_argument("--networks", help="names of the networks to take, with commas between (default: all)")
    parser.add_argument("--most-mparams", type=float, default=1e9, help="skip larger networks")
    parser.add_argument("--most-segments", type=int, default=1000, help="fit only networks with at most so many")
    parser.add_argument("--passes", type=int, default=2, help="how often to compile anew and fit")
    parser.add_argument("--as", dest="take_from", help="march whose figures per cycle are taken over")
    parser.add_argument("--cache", type=Path, help="folder that keeps INTEGER graphs between runs")
    parser.add_argument("--write", action="store_true")
    a = parser.parse_args()
    ddr = published_ddr(a.shared) if a.board == "X5" else {}
    known = measured(a.shared, a.board)
    names = chosen_names(a.shared, known, a.networks, a.most_mparams)
    target = starting_figures(targets.load(MARCH[a.board]), a.take_from)
    knobs = OUTSIDE if a.take_from else KNOBS

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def points_for(figures: Target) -> list[Point]:
        start, found = time.monotonic(), []
        for name in names:
            programs = compiled(a.shared, name, figures, a.level, a.cache)
            found.append(Point(name, known[name], programs, ddr.get(name, 0.0)))
            say(f"{name}: {known[name]:.3f} ms measured, {estimate_ms(found[-1], figures):.3f} ms estimated")
        say(f"compiled in {time.monotonic() - start:.0f} s")
        return found

    def usable(found: Sequence[Point]) -> list[Point]:
        return [p for p in found if len(p.programs) <= a.most_segments]

    points = points_for(target)
    step = 1 if len(usable(points)) < FEW else 2
    start, best, least = target, target, math.inf
    for _ in range(a.passes):
        trial = fit(usable(points)[::step], target, say, knobs)
        points = points_for(trial)
        if (score := loss(usable(points)[::step], trial)) < least:  # other plans may undo what the fit won
            best, least, best_points = trial, score, points
        target = trial
        say(f"loss {score:.4f}: " + ", ".join(f"{knob} {getattr(trial, knob)}" for knob in KNOBS))
    fitted = {p.name for p in usable(best_points)[::step]}
    apart = {p.name for p in best_points} - {p.name for p in usable(best_points)}
    note = f"Programs compiled with --{a.level} for the figures written."
    if step == 1:
        off = held_out_once(usable(best_points), start, say, knobs)
        note += (
            f" Too few networks to hold out half of them; each left out once (programs as "
            f"compiled for the figures fitted to all): median error {100 * off:.1f} %. There are fewer "
            "networks than free figures: together the figures reproduce these networks, a single one means little."
        )
    if apart:
        note += (
            f" {len(apart)} networks are cut into more than {a.most_segments} segments by CPU nodes; what is published "
            "need not be bound by the BPU then, and they took no part in the fit."
        )
    if a.take_from:
        note += (
            f" Figures per cycle are those of {a.take_from}; only {' and '.join(OUTSIDE)} were fitted "
            "here. Networks held out here may have taken part in the fit of the shared figures."
        )
    report = table(best_points, fitted, apart, best, f"## {a.board} ({best.march})", note)
    print(report)
    if a.write:
        write_target(best, len(fitted), knobs, a.take_from)
        write_docs(report, a.board)
    return 0


if __name__ == "__main__":
    sys.exit(main())
