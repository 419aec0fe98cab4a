"""makertbin: configuration and model in, stage files, artifact and tables out."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

import hbtool
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.config.dump import dump
from hbtool.config.schema import LoadedConfig
from hbtool.flows.float_stage import FloatStage, prepare_float
from hbtool.flows.inputs import input_formats
from hbtool.flows.quantize_stage import QuantizeStage, place_stage, quantize_stage
from hbtool.flows.run_record import versions, write_run_record
from hbtool.flows.tables import NodeRow, OutputRow, compare, node_table
from hbtool.flows.talk import Quiet, Talk
from hbtool.ir.save import save_model
from hbtool.passes.to_qdq import to_qdq
from hbtool.runtime.artifact import Artifact, save_artifact


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
    """

    artifact_path: Path
    files: Mapping[str, Path]
    nodes: tuple[NodeRow, ...]
    outputs: tuple[OutputRow, ...]
    method: str
    seconds: Mapping[str, float]
    artifact: Artifact = field(repr=False)


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
        placed = place_stage(stage, self.talk)
        self._lap("prepare")
        self._save(stage, "original_float_model", stage.original)
        self._save(stage, "optimized_float_model", stage.optimized)
        if "dump_calibration_data" in self.loaded.model_parameters.debug_mode:
            self._dump_samples(stage)
        self._lap("save")
        quantized = quantize_stage(stage, placed, self.talk)
        self._lap("calibrate")
        self._save(stage, "calibrated_model", to_qdq(quantized.quantized.ranged))
        self._save(stage, "quantized_model", quantized.quantized.standard)
        self._lap("save")
        artifact = self._compile(stage, quantized)
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
        return BuildResult(path, self.files, nodes, outputs, quantized.method, self.seconds, artifact)

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

    def _compile(self, stage: FloatStage, quantized: QuantizeStage) -> Artifact:
        model = quantized.quantized.integer
        compiled = compile_model(model, stage.target, compile_options(self.loaded))
        build = {
            "hbtool": hbtool.__version__,
            "versions": versions(),
            "platform": platform.platform(),
            "configuration": dump(self.loaded.config),
            "calibration_method": quantized.method,
            "model_sha256": hashlib.sha256(_model_bytes(stage)).hexdigest(),
        }
        return Artifact(
            self._prefix,
            stage.target.march,
            stage.target,
            model,
            {c.program.name: c for c in compiled},
            input_formats(model, stage.check.inputs),
            build,
        )

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
                "trials": [{"method": str(t.method.name), "score": t.score} for t in trials],
            },
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "nodes": {"BPU": sum(r.device == "BPU" for r in nodes), "CPU": sum(r.device == "CPU" for r in nodes)},
            "outputs": {r.name: asdict(r.similarity) for r in outputs},
            "model_sha256": hashlib.sha256(_model_bytes(stage)).hexdigest(),
        }


def compile_options(loaded: LoadedConfig) -> CompileOptions:
    """The compiler's options of a configuration."""
    p = loaded.compiler_parameters
    return CompileOptions(
        optimize_level=p.optimize_level,
        compile_mode=p.compile_mode,
        balance_factor=p.balance_factor if p.balance_factor is not None else 0,
        core_num=p.core_num,
        max_time_per_fc=p.max_time_per_fc,
        jobs=p.jobs or os.cpu_count() or 1,
    )


def _model_bytes(stage: FloatStage) -> bytes:
    assert stage.paths.onnx_model is not None, "checked by prepare_float"
    return stage.paths.onnx_model.read_bytes()
