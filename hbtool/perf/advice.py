"""What a reader of the report should be told: settings and cuts that cost time."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hbtool.artifact.program import Program
from hbtool.perf.cuts import CpuPart
from hbtool.perf.facts import ModelFact
from hbtool.perf.layers import LayerCost
from hbtool.perf.timeline import Timeline
from hbtool.perf.units import time_text

_MOST_LAYERS = 20


def warnings_of(model: ModelFact, cpu: Sequence[CpuPart]) -> tuple[str, ...]:
    """One sentence per thing that was probably not meant."""
    found: list[str] = []
    programs = [s.program for s in model.segments if s.program is not None]
    if any("--O0" in p.options.split() for p in programs):
        found.append(
            "Compiled with optimize_level O0: every layer goes through DDR. "
            "Set compiler_parameters.optimize_level: O3 for real use."
        )
    if model.layer_out_dump:
        found.append(
            "model_parameters.layer_out_dump is true: every layer's output is a model output, which costs DDR traffic "
            "and CPU time. Set it to false for real use."
        )
    if cuts := [part for part in cpu if part.role == "middle"]:
        found.append(_cuts(cuts))
    if not model.debug:
        found.append(
            "Built with compiler_parameters.debug: false, so there are no layer details. Build with debug: true."
        )
    if not programs:
        found.append("Nothing runs on the BPU: the whole model is on the CPU. The CPU table says why.")
    return tuple(found)


def call_advice(programs: Sequence[tuple[Program, Timeline]]) -> tuple[str, ...]:
    """One sentence where function calls are longer than the limit the program was compiled for."""
    found = []
    for program, line in programs:
        limit_us, longest_us = _call_limit_us(program.options), max(line.call_us, default=0.0)
        if 0 < limit_us < longest_us:
            over = sum(us > limit_us for us in line.call_us)
            found.append(
                f"Advice: {over} of {len(line.call_us)} function calls of {program.name} are longer than "
                f"max_time_per_fc ({limit_us} us), the longest {longest_us:.0f} us: what runs in them cannot be cut. "
                "Raise the limit."
            )
    return tuple(found)


def _call_limit_us(options: str) -> int:
    found = re.search(r"--max-time-per-fc (\d+)\b", options)
    return int(found[1]) if found else 0


def _cuts(cuts: Sequence[CpuPart]) -> str:
    removable = [part for part in cuts if not part.stuck]
    keys = dict.fromkeys(key for part in removable for key in part.keys)
    plural = "" if len(cuts) == 1 else "s"
    text = (
        f"{len(cuts)} CPU part{plural} between BPU segments (first: {cuts[0].name}). "
        "Each adds transfers, quantizing and a launch."
    )
    if removable:
        text += f" {len(removable)} of {len(cuts)} can be removed by configuration ({', '.join(keys)})."
    if len(removable) < len(cuts):
        text += (
            f" {len(cuts) - len(removable)} of {len(cuts)} need a change of the model; the CPU table says which nodes."
        )
    return text


def layer_advice(advice_us: float, layers: Sequence[tuple[LayerCost, float]]) -> tuple[str, ...]:
    """One sentence per layer that computes much longer than its operations need, longest first.

    Args:
        advice_us: how much longer is worth a sentence; 0 for no advice.
        layers: each with the time its operations take at the peak of the array, microseconds.
    """
    if advice_us <= 0:
        return ()
    over = sorted(((cost.compute_us - ideal, cost) for cost, ideal in layers), key=lambda pair: -pair[0])
    chosen = [(excess, cost) for excess, cost in over if excess > advice_us]
    found = [
        f"Advice: layer {cost.name} ({cost.op}) computes for {time_text(cost.compute_us)}, {time_text(excess)} over "
        f"the ideal; padding adds {cost.aligned_bytes / max(1, cost.bytes) - 1:.0%} to its output."
        for excess, cost in chosen[:_MOST_LAYERS]
    ]
    if len(chosen) > _MOST_LAYERS:
        found.append(f"Advice: {len(chosen) - _MOST_LAYERS} more layers exceed the ideal by {time_text(advice_us)}.")
    return tuple(found)
