"""debug: where a model of the mapper loses its accuracy. Nothing is written but the page that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir

from hbtool.analysis.stages import (
    STAGES,
    LayerRow,
    ReadStage,
    compare_stages,
    graph_order,
    read_float,
    read_integer,
    read_program,
)
from hbtool.analysis.subject import Subject
from hbtool.calibration.instrument import Sample, Samples
from hbtool.compiler.compile import compile_model
from hbtool.config.schema import LoadedConfig
from hbtool.errors import DataError, UsageError
from hbtool.flows.compile_stage import compile_options
from hbtool.flows.float_stage import prepare_float
from hbtool.flows.named_target import named_target
from hbtool.flows.quantize_stage import place_stage, quantize_stage
from hbtool.flows.talk import Quiet, Talk
from hbtool.ir import graph, meta
from hbtool.ir.load import load_model
from hbtool.passes.quantize import Quantized, from_ranged
from hbtool.passes.read_qdq import read_qdq
from hbtool.passes.to_qdq import to_qdq
from hbtool.runtime.simulator import simulate
from hbtool.target.target import Target

_CALIBRATED = "_calibrated_model.onnx"


@dataclass(frozen=True)
class Analysis:
    """A model in all its stages.

    Attributes:
        name: for headings.
        original: float graph as the user gave it, with preprocessing.
        optimized: float graph after simplification.
        quantized: RANGED and INTEGER graph.
        target: the machine.
        samples: inputs as the float graph takes them.
        loaded: the configuration, None where stage files were given.
    """

    name: str
    original: ir.Model
    optimized: ir.Model
    quantized: Quantized
    target: Target
    samples: Samples
    loaded: LoadedConfig | None

    @cached_property
    def subject(self) -> Subject:
        """What sensitivity and growth work on."""
        return Subject(self.quantized.ranged, self.samples)

    def reader(self, stage: str) -> ReadStage:
        """Reads the values of one stage.

        Raises:
            UsageError: no such stage.
        """
        if stage == "original":
            return read_float(self.original)
        if stage == "optimized":
            return read_float(self.optimized)
        if stage == "calibrated":
            return read_float(to_qdq(self.quantized.ranged))
        if stage == "quantized":
            return read_integer(self.quantized.integer)
        if stage == "artifact":
            return self._program()
        raise UsageError(f"there is no stage {stage!r}", hint=f"Stages: {', '.join(STAGES)}.")

    def _program(self) -> ReadStage:
        if self.loaded is None:
            raise UsageError("the stage artifact needs the configuration", hint="Give config.yaml instead of a file.")
        compiled = compile_model(self.quantized.integer, self.target, compile_options(self.loaded))
        programs = {c.program.name: c for c in compiled}
        return read_program(
            self.quantized.integer, lambda s, feeds: simulate(programs[s.name], self.target, feeds).outputs
        )


def analyse(loaded: LoadedConfig, talk: Talk | None = None) -> Analysis:
    """The stages of a configuration, calibrated as it says.

    Raises:
        HbError: as makertbin.
    """
    talk = talk or Quiet()
    stage = prepare_float(loaded, talk)
    found = quantize_stage(stage, place_stage(stage, talk), talk)
    name = loaded.model_parameters.output_model_file_prefix
    return Analysis(name, stage.original, stage.optimized, found.quantized, stage.target, stage.samples, loaded)


def analyse_files(calibrated: Path, data: Path, march: str) -> Analysis:
    """The stages out of the files that makertbin leaves: `*_calibrated_model.onnx` with its neighbours.

    Args:
        calibrated: the calibrated model; `*_optimized_float_model.onnx` (and `*_original_float_model.onnx`) lie beside.
        data: `calibration_data`, as `debug_mode: dump_calibration_data` writes it: one folder of .npy per input.
        march: the target.

    Raises:
        ModelError, DataError, UsageError: a file is missing or does not fit.
    """
    if not calibrated.name.endswith(_CALIBRATED):
        raise UsageError(
            f"{calibrated.name} is no calibrated model", hint=f"Give config.yaml, or a file that ends in {_CALIBRATED}."
        )
    stem = calibrated.name[: -len(_CALIBRATED)]
    optimized = load_model(calibrated.with_name(f"{stem}_optimized_float_model.onnx"))
    original_path = calibrated.with_name(f"{stem}_original_float_model.onnx")
    original = load_model(original_path) if original_path.is_file() else optimized
    target = named_target(march)
    ranged = _with_meanings(optimized, load_model(calibrated))
    quantized = from_ranged(ranged, target.family, target.multiplier_bits)
    samples = StoredSamples(data, [graph.value_name(v) for v in optimized.graph.inputs])
    return Analysis(stem, original, optimized, quantized, target, samples, None)


def _with_meanings(optimized: ir.Model, calibrated: ir.Model) -> ir.Model:
    """The optimized float graph with the placements and meanings of the calibrated one."""
    ranged = optimized.clone()
    nodes = {graph.node_name(n): n for n in calibrated.graph}
    for node in ranged.graph:
        if (twin := nodes.get(graph.node_name(node))) is not None:
            node.metadata_props.update(twin.metadata_props)
    read_qdq(calibrated)
    twins = {graph.node_name(n): n for n in calibrated.graph}
    for node in ranged.graph:
        twin = twins.get(graph.node_name(node))
        if twin is None:
            continue
        for mine, other in zip((*node.inputs, *node.outputs), (*twin.inputs, *twin.outputs), strict=False):
            if mine is not None and other is not None and (q := meta.qparams(other)) is not None:
                meta.set_qparams(mine, q)
    return ranged


class StoredSamples:
    """Samples that `dump_calibration_data` wrote: `<folder>/<input>/<index>.npy`.

    Raises:
        DataError: a folder is missing or empty, or the inputs have different numbers of files.
    """

    def __init__(self, folder: Path, inputs: Sequence[str]) -> None:
        self._files: dict[str, list[Path]] = {}
        for name in inputs:
            files = sorted((folder / name).glob("*.npy"), key=lambda p: (len(p.stem), p.stem))
            if not files:
                raise DataError(
                    f"there are no samples of input {name!r}",
                    where=str(folder / name),
                    hint="Run makertbin with debug_mode: dump_calibration_data.",
                )
            self._files[name] = files
        counts = {len(f) for f in self._files.values()}
        if len(counts) > 1:
            raise DataError("the inputs have different numbers of samples", where=str(folder))
        self._count = counts.pop() if counts else 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self):  # type: ignore[no-untyped-def]
        for index in range(self._count):
            yield {name: np.load(files[index], allow_pickle=False) for name, files in self._files.items()}


def layers(analysis: Analysis, first: str, second: str, samples: int = 1) -> tuple[LayerRow, ...]:
    """Similarity per layer between two stages.

    Raises:
        UsageError: an unknown stage.
    """
    chosen: list[Sample] = []
    for sample in analysis.samples:
        chosen.append(sample)
        if len(chosen) == samples:
            break
    later = STAGES.index(second) if second in STAGES else 0
    source = analysis.original if first == "original" and later < 1 else analysis.optimized
    order = {**graph_order(analysis.original), **graph_order(source)} if first == "original" else graph_order(source)
    return compare_stages(order, analysis.reader(first), analysis.reader(second), chosen)
