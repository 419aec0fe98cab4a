"""What a reader of the report should be told: settings and cuts that cost time."""

from __future__ import annotations

from collections.abc import Sequence

from hbtool.perf.cuts import CpuPart
from hbtool.perf.facts import ModelFact


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
        keys = dict.fromkeys(key for part in cuts for key in part.keys)
        first, rest = cuts[0].name, len(cuts) - 1
        named = f"{first} and {rest} more" if rest else first
        found.append(
            f"{len(cuts)} CPU part{'s' if rest else ''} between BPU segments ({named}): each adds transfers, "
            "quantizing and a launch. "
            + (f"Keys that remove them: {', '.join(keys)}." if keys else "No key removes them; see the reasons.")
        )
    if not model.debug:
        found.append(
            "Built with compiler_parameters.debug: false, so there are no layer details. Build with debug: true."
        )
    if not programs:
        found.append("Nothing runs on the BPU: the whole model is on the CPU. The CPU table says why.")
    return tuple(found)
