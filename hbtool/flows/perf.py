"""perf: an artifact in; its report, page, pictures and trace out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbtool.errors import UsageError
from hbtool.flows.perf_facts import REMOVABLE_TYPES, model_fact
from hbtool.flows.talk import Quiet, Talk
from hbtool.ir.save import write_bytes
from hbtool.perf.diagram import diagram_svg
from hbtool.perf.page import report_page
from hbtool.perf.picture import diagram_png
from hbtool.perf.report import Report, make_report
from hbtool.perf.report_json import segment_json
from hbtool.perf.structure import structure_of
from hbtool.perf.trace import trace_json
from hbtool.runtime.artifact import Artifact, load_artifact

_LONGEST_STEM = 100


@dataclass(frozen=True)
class PerfResult:
    """What perf made.

    Attributes:
        report: the numbers.
        files: every file written, by role: `html`, `svg`, `png`, `trace`, and segment names for their JSON.
    """

    report: Report
    files: Mapping[str, Path]


def perf(
    artifact: str | Path | Artifact,
    folder: str | Path = "hb_perf_result",
    talk: Talk | None = None,
    *,
    model_name: str | None = None,
    measure: bool = True,
) -> PerfResult:
    """Report what an artifact costs and write `folder/<model>/`.

    Args:
        artifact: a file, or an artifact in memory.
        folder: where the model's own folder goes.
        talk: hears what is going on.
        model_name: which model of a packed file, None for the only one.
        measure: time the CPU segments on this PC.

    Raises:
        ArtifactError: the file cannot be used.
        UsageError: the file holds no such model, or several and none was named.
        HbError: the folder cannot be written.
    """
    talk = talk or Quiet()
    report = report_of(artifact, talk, model_name=model_name, measure=measure)
    return PerfResult(report, _write(report, Path(folder), talk))


def report_of(
    artifact: str | Path | Artifact, talk: Talk | None = None, *, model_name: str | None = None, measure: bool = True
) -> Report:
    """The numbers alone; nothing is written."""
    loaded = artifact if isinstance(artifact, Artifact) else load_artifact(artifact, model_name)
    if model_name not in (None, loaded.name):
        raise UsageError(f"the artifact holds no model called {model_name!r}", hint=f"It holds {loaded.name!r}.")
    return make_report(model_fact(loaded, talk or Quiet(), measure), REMOVABLE_TYPES)


def file_stem(name: str) -> str:
    """A model's name as a file name; the name may come from anywhere."""
    return re.sub(r"[^\w.+-]", "_", name).strip(".")[:_LONGEST_STEM] or "model"


def _write(report: Report, folder: Path, talk: Talk) -> dict[str, Path]:
    stem = file_stem(report.model.name)
    own = folder / stem
    segment_files = {s.name: f"{stem}_subgraph_{n}.json" for n, s in enumerate(report.segments)}
    files = {
        segment.name: _write_text(own / segment_files[segment.name], _text(segment_json(report, segment), indent=1))
        for segment in report.segments
    }
    structure = structure_of(report)
    title = f"Structure of {report.model.name}"
    files["svg"] = _write_text(own / f"{stem}.svg", diagram_svg(structure, title, paper=True))
    files["png"] = write_bytes(own / f"{stem}.png", diagram_png(structure))
    files["trace"] = _write_text(own / f"{stem}_trace.json", _text(trace_json(report)))
    files["html"] = _write_text(own / f"{stem}.html", report_page(report, structure, stem, segment_files))
    talk.info(f"wrote {len(files)} files to {own}")
    return files


def _write_text(path: Path, text: str) -> Path:
    # Names in an artifact may hold what UTF-8 cannot.
    return write_bytes(path, text.encode("utf-8", "replace"))


def _text(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent) + "\n"
