"""What the torch commands leave in the working folder, and the accuracy table they share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hbtool.config.training_loader import LoadedTraining
from hbtool.flows.run_record import write_run_record
from hbtool.ir.save import write_text

STAGES = ("float", "calibrated", "QAT", "fixed point")

CALIBRATED = "calib.safetensors"
LAST = "qat_last.safetensors"
BEST = "qat_best.safetensors"


@dataclass(frozen=True)
class StageResult:
    """What one command found out.

    Attributes:
        command: calib, qat, convert or export-onnx.
        metrics: stage -> metric on the validation data, of this and earlier commands; None = not measured.
        files: role -> file written.
        notes: further lines for the reader.
    """

    command: str
    metrics: Mapping[str, float | None]
    files: Mapping[str, Path]
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def table(self) -> list[tuple[str, str, str]]:
        """Rows (stage, metric, difference to float) of what is known."""
        base = self.metrics.get("float")
        rows = []
        for stage in STAGES:
            value = self.metrics.get(stage)
            if value is not None:
                gap = "" if base is None or stage == "float" else f"{value - base:+.2f}"
                rows.append((stage, f"{value:.2f}", gap))
        return rows


def read_metrics(folder: Path) -> dict[str, float | None]:
    """Metrics that earlier commands left; empty if none did."""
    try:
        found = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in found.items() if k in STAGES and isinstance(v, (int, float))}


def finish(
    loaded: LoadedTraining,
    command: str,
    metrics: Mapping[str, float | None],
    files: Mapping[str, Path],
    notes: tuple[str, ...] = (),
    facts: Mapping[str, Any] | None = None,
) -> StageResult:
    """Write `metrics.json` and `run.json` beside the results (rank 0 only) and make the result."""
    folder = loaded.working_dir
    merged = {**read_metrics(folder), **{k: v for k, v in metrics.items() if v is not None}}
    write_text(folder / "metrics.json", json.dumps(merged, indent=2) + "\n")
    record = {
        "command": command,
        "configuration": loaded.config.model_dump(mode="json"),
        "metrics": merged,
        **(facts or {}),
    }
    run = write_run_record(folder / f"run_{command}.json", record, files)
    return StageResult(command, merged, {**files, "run": run}, notes, facts or {})
