"""Fits the free figures of a target to published board latencies, on half of the networks, and reports the other half.

    python tools/fit_targets.py SHARED --board X5 [--cache FOLDER] [--passes 1] [--write]

The knobs are physical and belong to the machine, never to a network: DDR bandwidth, transfer latency, fixed cycles of
an instruction, rates of the vector unit and of depthwise convolutions, channels the vector unit takes at once, launch
time, and how the array divides its multipliers. A knob changes the timeline of compiled programs; after each pass the
programs are compiled again for the figures found. Networks are sorted by name; every other one is fitted. The halves
are then swapped as a check. `--as MARCH` takes over the figures per cycle of another march and fits only what lies
outside the array. `--passes 0` fits nothing and reports the target as it is. `--write` stores the figures in the target
file and the report in docs/latency.md.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from board_figures import measured, parameters_m, published_ddr_bytes
from latency_report import Point, board_part, ddr_part, estimate_ms, summary, write_part
from network_programs import ROOT, programs

from hbtool import target as targets
from hbtool.target.target import Target

MARCH = {"X3": "bernoulli2", "X5": "bayes-e", "S100": "nash-e", "S100P": "nash-m", "Ultra (J5)": "bayes"}
RATES = (
    "ddr_bytes_per_second",
    "dma_latency_cycles",
    "instruction_cycles",
    "vector_ops",
    "depthwise_macs",
    "launch_us",
)
ARRAY = ("matrix_outputs", "matrix_inputs", "matrix_width")
KNOBS = (*RATES, *ARRAY, "vector_channels")
OUTSIDE = ("ddr_bytes_per_second", "launch_us")
"""Knobs that two chips with the same array do not share."""

CHANNELS = (1, 4, 8, 16, 32, 64)
FEW = 8
"""With fewer networks than this each is held out once (leave one out), and the figures written are fitted to all."""

LEAST_DDR = {"bernoulli2": 2.5e9, "bayes": 10.4e9, "bayes-e": 6.3e9, "nash-e": 25e9, "nash-m": 32e9}
"""Bytes per second (of one core) that published figures need at least: int8 weights times frames per second, or
(bayes) the peak of a published estimate of the vendor's compiler."""

LARGEST_LOG = 0.7
"""A miss of more than a factor of two counts no more than that: one odd network must not bend all the others."""

ROUNDS = 12
FIRST_STEP, LAST_STEP = 1.6, 1.04
Say = Callable[[str], None]


def bounds(target: Target, knob: str) -> tuple[float, float]:
    """What is physically plausible.

    100 to 2000 cycles from a request to its first byte; 5 to 100 us to start a call (the shortest published frames
    leave no more beside the transfer of their weights); the DDR bandwidth that published frame rates need; no more
    depthwise multiplications per cycle than the array has multipliers.
    """
    limits = {
        "dma_latency_cycles": (100.0, 2000.0),
        "instruction_cycles": (20.0, 5000.0),
        "launch_us": (5.0, 100.0),
        "depthwise_macs": (1.0, float(target.macs_per_cycle)),
        "ddr_bytes_per_second": (LEAST_DDR.get(target.march, 1e9), math.inf),
    }
    return limits.get(knob, (1.0, math.inf))


def with_knob(target: Target, knob: str, value: float) -> Target:
    """The target with one knob at a value, kept inside its bounds."""
    low, high = bounds(target, knob)
    kept = min(max(value, low), high)
    return replace(target, **{knob: round(kept) if isinstance(getattr(target, knob), int) else kept})


def loss(points: Sequence[Point], target: Target) -> float:
    """Mean of |log(estimate / measured)|."""
    return statistics.mean(min(abs(math.log(estimate_ms(p, target) / p.measured_ms)), LARGEST_LOG) for p in points)


def divisions(target: Target) -> list[dict[str, int]]:
    """Ways to divide the same number of multipliers among outputs, inputs and width."""
    total, found = target.macs_per_cycle, []
    for outputs in (8, 16, 32, 64):
        for inputs in (4, 8, 16, 32, 64):
            width = total // (outputs * inputs)
            if 1 <= width <= 16:
                found.append(dict(zip(ARRAY, (outputs, inputs, width), strict=True)))
    return found


def fit(points: Sequence[Point], target: Target, knobs: Sequence[str], say: Say) -> Target:
    """Coordinate descent: the choices once, then rates in steps that shrink, then the choices and the rates again."""
    best = target
    for step in (1.3, FIRST_STEP):
        best = _fit_rates(points, best, [k for k in RATES if k in knobs], step)
        choices = divisions(best) if ARRAY[0] in knobs else []
        choices += [{"vector_channels": n} for n in CHANNELS] if "vector_channels" in knobs else []
        for choice in choices:
            trial = replace(best, **choice)
            if loss(points, trial) < loss(points, best) - 1e-4:
                best = trial
    best = _fit_rates(points, best, [k for k in RATES if k in knobs], 1.3)
    say(f"loss {loss(points, target):.4f} -> {loss(points, best):.4f}")
    return best


def _fit_rates(points: Sequence[Point], target: Target, rates: Sequence[str], step: float) -> Target:
    best, value = target, loss(points, target)
    for _ in range(ROUNDS):
        before = value
        for knob in rates:
            for factor in (step, 1 / step):
                trial = with_knob(best, knob, getattr(best, knob) * factor)
                if trial != best and (score := loss(points, trial)) < value - 1e-5:
                    best, value = trial, score
                    break
        if before - value < 1e-3:
            step = math.sqrt(step)
            if step < LAST_STEP:
                break
    return best


def held_out_once(points: Sequence[Point], target: Target, knobs: Sequence[str], say: Say) -> float:
    """Median error of networks, each estimated by figures fitted to all the others."""
    off = []
    for one in points:
        without = fit([p for p in points if p is not one], target, knobs, say)
        off.append(abs(estimate_ms(one, without) / one.measured_ms - 1))
    return statistics.median(off)


@dataclass
class Run:
    """One run of the script for a board."""

    shared: Path
    board: str
    cache: Path | None
    level: str
    names: list[str]
    most_segments: int
    keep_programs: bool
    say: Say

    def points(self, target: Target) -> list[Point]:
        """All networks, compiled for a target."""
        start, found = time.monotonic(), []
        known = measured(self.shared, self.board)
        for name in self.names:
            compiled = programs(self.shared, name, target, self.level, self.cache)
            apart = known[name].apart
            if len(compiled) > self.most_segments:
                apart = (
                    f"CPU nodes cut it into {len(compiled)} segments; what is published need not be bound by the BPU"
                )
            found.append(Point(name, known[name].ms, compiled, apart, known[name].stands_for))
            self.say(f"{name}: {known[name].ms:.3f} ms measured, {estimate_ms(found[-1], target):.3f} ms estimated")
        self.say(f"compiled in {time.monotonic() - start:.0f} s")
        return found


def halves(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """(fitted, held out) of the points that can be compared; with few of them all are fitted."""
    usable = [p for p in points if not p.apart]
    return (usable, []) if len(usable) < FEW else (usable[::2], usable[1::2])


def fitted_target(run: Run, start: Target, knobs: Sequence[str], passes: int) -> tuple[Target, list[Point]]:
    """The best figures after some passes, and all networks compiled for them."""
    best, best_points = start, run.points(start)
    trial, points = best, best_points
    for _ in range(passes):
        trial = fit(halves(points)[0], trial, knobs, run.say)
        points = points if run.keep_programs else run.points(trial)
        # Other plans may undo what the fit won.
        if loss(halves(points)[0], trial) < loss(halves(best_points)[0], best):
            best, best_points = trial, points
    run.say(", ".join(f"{knob} {getattr(best, knob)}" for knob in KNOBS))
    return best, best_points


def notes(run: Run, target: Target, points: Sequence[Point], knobs: Sequence[str], other: str | None) -> list[str]:
    """What stands above the table."""
    fitted, held_out = halves(points)
    result = []
    if held_out and knobs:
        swapped = fit(held_out, target, knobs, run.say)
        result.append(
            "Halves swapped (figures fitted to the held-out half, on the programs of the table; the other half "
            f"estimated with them): {summary(fitted, swapped)}."
        )
    elif knobs and len(fitted) > 1:
        off = held_out_once(fitted, target, knobs, run.say)
        result.append(
            f"Too few networks to hold out half of them. Each left out once, on the programs of the table: median "
            f"error {100 * off:.1f} %. With {len(fitted)} networks and {len(knobs)} free figures, a single figure "
            "means little."
        )
    if knobs and run.keep_programs:
        result.append("The programs of the table were compiled for figures of the fit before; their time is today's.")
    if other:
        result.append(
            f"Figures per cycle are those of {other}; free here: {', '.join(knobs) or 'none'}. Networks held out here "
            "may have taken part in the fit of the shared figures."
        )
    return result


def write_target(target: Target, fitted_on: int, knobs: Sequence[str], other: str | None) -> None:
    """Store the fitted figures in the target's file."""
    path = ROOT / "hbtool" / "target" / f"{target.march}.yaml"
    text = path.read_text()
    for knob in KNOBS:
        if knob not in knobs and not other:
            continue
        value = getattr(target, knob)
        shown = f"{value}" if isinstance(value, int) else f"{value:.6g}" if value < 1e6 else f"{value:.1f}"
        source = f"fitted by tools/fit_targets.py to {fitted_on} networks (docs/latency.md)"
        if knob not in knobs:
            source = f"as {other}"
        text = re.sub(rf"^{knob}: .*$", f'{knob}: {{value: {shown}, source: "{source}"}}', text, flags=re.MULTILINE)
    path.write_text(text)


def starting_figures(target: Target, other: str | None, shared_knobs: Sequence[str]) -> Target:
    """The march as it is, with the shared figures of another one, inside the bounds."""
    if other:
        source = targets.load(other)
        target = replace(target, **{knob: getattr(source, knob) for knob in shared_knobs})
    for knob in RATES:
        target = with_knob(target, knob, getattr(target, knob))
    return target


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--board", choices=sorted(MARCH), default="X5")
    parser.add_argument("--level", default="O3")
    parser.add_argument("--networks", help="names of the networks to take, with commas between (default: all)")
    parser.add_argument("--most-mparams", type=float, default=math.inf, help="skip larger networks")
    parser.add_argument("--most-segments", type=int, default=1000, help="more segments: the network stands apart")
    parser.add_argument("--passes", type=int, default=1, help="how often to fit and compile anew (0: report only)")
    parser.add_argument("--free", help=f"knobs to fit, with commas between (default: {', '.join(KNOBS)})")
    parser.add_argument("--as", dest="other", help="march whose figures per cycle are taken over")
    parser.add_argument("--cache", type=Path, help="folder that keeps graphs and programs between runs")
    parser.add_argument("--keep-programs", action="store_true", help="do not compile anew for the figures found")
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


def main() -> int:
    """Fit, report, write."""
    a = arguments()
    known, size = measured(a.shared, a.board), parameters_m(a.shared)
    names = a.networks.split(",") if a.networks else list(known)
    if missing := sorted(set(names) - set(known)):
        raise SystemExit(f"no measured latency on this board for {', '.join(missing)}")
    knobs = tuple(a.free.split(",")) if a.free else OUTSIDE if a.other else KNOBS
    names = sorted(name for name in names if size[name] <= a.most_mparams)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    run = Run(a.shared, a.board, a.cache, a.level, names, a.most_segments, a.keep_programs, say)
    start = targets.load(MARCH[a.board])
    if a.passes:
        start = starting_figures(start, a.other, [k for k in KNOBS if k not in knobs and k not in OUTSIDE])
    best, points = fitted_target(run, start, knobs, a.passes)
    fitted = {p.name for p in halves(points)[0]}
    report = board_part(f"{a.board} ({best.march})", notes(run, best, points, knobs, a.other), points, fitted, best)
    parts = [report]
    if a.board == "X5":
        parts.append(ddr_part("DDR bytes (bayes-e)", points, published_ddr_bytes(a.shared)))
    print("\n".join(parts))
    if a.write:
        if a.passes:
            write_target(best, len(fitted), knobs, a.other)
        for part in parts:
            write_part(ROOT / "docs" / "latency.md", part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
