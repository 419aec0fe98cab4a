"""makertbin: configuration and model in, stage files, artifact and tables out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from hbtool.config.dump import dump
from hbtool.config.inputs import InputConfig
from hbtool.config.schema import LoadedConfig
from hbtool.flows.compile_stage import (
    build_artifact,
    check_ahead,
    finish_stage,
    model_sha256,
    write_deleted_nodes,
)
from hbtool.flows.float_stage import FloatStage, prepare_float
from hbtool.flows.lint_data import quick_remarks
from hbtool.flows.perf import report_of
from hbtool.flows.quantize_stage import QuantizeStage, place_stage, quantize_stage
from hbtool.flows.run_record import write_run_record
from hbtool.flows.tables import NodeRow, OutputRow, compare, node_table
from hbtool.flows.talk import Quiet, Talk
from hbtool.ir.save import save_model
from hbtool.passes.remove_border_nodes import RemovedNode
from hbtool.passes.settle_int16 import RefusedInt16
from hbtool.passes.to_qdq import to_qdq
from hbtool.perf.report import Report
from hbtool.runtime.artifact import Artifact, save_artifact

ADVICE = "Advice: "
"""How the sentences begin that compiler_parameters.advice asks for."""


@dataclass(frozen=True)
class BuildResult:
    """What makertbin made.

    Attributes:
        artifact_path: the artifact.
        files: every file written, by role.
        nodes: the node table.
        outputs: the output table.
        method: the calibration method that was used.
        seconds: time spent per stage.
        artifact: the artifact in memory.
        inputs: the inputs as they were understood.
        refused: int16 requests that fell back to int8.
        removed: head and tail nodes whose work the application does.
    """

    artifact_path: Path
    files: Mapping[str, Path]
    nodes: tuple[NodeRow, ...]
    outputs: tuple[OutputRow, ...]
    method: str
    seconds: Mapping[str, float]
    artifact: Artifact = field(repr=False)
    inputs: tuple[InputConfig, ...] = ()
    refused: tuple[RefusedInt16, ...] = ()
    removed: tuple[RemovedNode, ...] = ()


def makertbin(loaded: LoadedConfig, talk: Talk | None = None) -> BuildResult:
    """Build an artifact.

    Raises:
        HbError: of the class that names the cause; files of earlier stages stay, nothing is half-written.
    """
    build = _Build(loaded, talk or Quiet())
    return build.run()


class _Build:
    def __init__(self, loaded: LoadedConfig, talk: Talk) -> None:
        self.loaded = loaded
        self.talk = talk
        self.files: dict[str, Path] = {}
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def run(self) -> BuildResult:
        stage = prepare_float(self.loaded, self.talk)
        for remark in quick_remarks(stage):
            (self.talk.warn if remark.level == "warning" else self.talk.info)(str(remark))
        placed = place_stage(stage, self.talk)
        check_ahead(stage)
        self._lap("prepare")
        self._save(stage, "original_float_model", stage.original)
        self._save(stage, "optimized_float_model", stage.optimized)
        if "dump_calibration_data" in self.loaded.model_parameters.debug_mode:
            self._dump_samples(stage)
        self._lap("save")
        quantized = quantize_stage(stage, placed, self.talk)
        self._lap("calibrate")
        self._save(stage, "calibrated_model", to_qdq(quantized.quantized.ranged))
        finished = finish_stage(stage, quantized, self.talk)
        self._save(stage, "quantized_model", finished.standard)
        if finished.removed_standard is not None:
            self._save(stage, "quantized_removed_model", finished.removed_standard)
            self.files["deleted_nodes"] = write_deleted_nodes(finished.removed, stage.paths.working_dir)
        self._lap("save")
        artifact = build_artifact(stage, quantized, finished, self.talk)
        report = report_of(artifact, measure=False)
        self._tell_cost(report)
        self._lap("compile")
        cosines, outputs = compare(stage.optimized, quantized.quantized.integer, stage.samples[0])
        nodes = node_table(artifact.segments(), cosines)
        self._lap("compare")
        path = save_artifact(artifact, stage.paths.working_dir / f"{self._prefix}.bin")
        self.files["artifact"] = path
        self._lap("save")
        self.files["run"] = write_run_record(
            stage.paths.working_dir / "run.json", self._record(stage, quantized, nodes, outputs), self.files
        )
        return BuildResult(
            path,
            self.files,
            nodes,
            outputs,
            quantized.method,
            self.seconds,
            artifact,
            stage.check.inputs,
            quantized.refused,
            finished.removed,
        )

    @property
    def _prefix(self) -> str:
        return self.loaded.model_parameters.output_model_file_prefix

    def _lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def _save(self, stage: FloatStage, role: str, model: ir.Model) -> None:
        path = save_model(model, stage.paths.working_dir / f"{self._prefix}_{role}.onnx")
        self.files[role] = path
        self.talk.info(f"saved {path.name}")

    def _dump_samples(self, stage: FloatStage) -> None:
        from hbtool.flows.dump_samples import dump_samples

        self.files["calibration_data"] = dump_samples(stage.samples, stage.paths.working_dir / "calibration_data")

    def _tell_cost(self, report: Report) -> None:
        self.talk.info(
            f"FPS={report.frames_per_second:.2f}, latency = {report.latency_us:.1f} us, DDR = {report.ddr_bytes} bytes "
            "(BPU only, hbtool's machine model; see hbtool perf)"
        )
        for line in report.warnings:
            if line.startswith(ADVICE):
                self.talk.warn(line)

    def _record(
        self, stage: FloatStage, quantized: QuantizeStage, nodes: tuple[NodeRow, ...], outputs: tuple[OutputRow, ...]
    ) -> dict[str, Any]:
        trials = quantized.calibrated.trials if quantized.calibrated is not None else ()
        return {
            "command": "makertbin",
            "configuration": dump(self.loaded.config),
            "march": stage.target.march,
            "calibration": {
                "method": quantized.method,
                "samples": len(stage.samples),
                "trials": [{"method": str(t.method.name), "score": t.score, "error": t.error} for t in trials],
            },
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "nodes": {"BPU": sum(r.device == "BPU" for r in nodes), "CPU": sum(r.device == "CPU" for r in nodes)},
            "outputs": {r.name: asdict(r.similarity) for r in outputs},
            "model_sha256": model_sha256(stage),
        }
