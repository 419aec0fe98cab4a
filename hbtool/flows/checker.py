"""checker: where every node would run and why, with random data and without writing anything."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hbtool.calibration.ranges import Method
from hbtool.calibration.search import CalibrationJob, calibrate
from hbtool.compiler.compile import compile_model
from hbtool.compiler.segments import split_segments
from hbtool.config.inputs import InputConfig
from hbtool.config.schema import LoadedConfig
from hbtool.flows.compile_stage import check_ahead, compile_options, remove_nodes
from hbtool.flows.float_stage import prepare_float
from hbtool.flows.quantize_stage import place_stage
from hbtool.flows.tables import NodeRow, node_table
from hbtool.flows.talk import Quiet, Talk
from hbtool.passes.attach_ranges import attach_ranges
from hbtool.passes.quantize import from_ranged
from hbtool.passes.remove_border_nodes import RemovedNode
from hbtool.passes.settle_int16 import RefusedInt16

SAMPLES = 1


@dataclass(frozen=True)
class CheckResult:
    """What a check found; that there is one means the model can be built.

    Attributes:
        nodes: the node table, without similarities and thresholds.
        inputs: the inputs as they were understood.
        refused: int16 requests that would fall back to int8.
        removed: head and tail nodes that would be removed.
        segments: BPU segments.
    """

    nodes: tuple[NodeRow, ...]
    inputs: tuple[InputConfig, ...]
    refused: tuple[RefusedInt16, ...]
    removed: tuple[RemovedNode, ...]
    segments: int


def check(loaded: LoadedConfig, talk: Talk | None = None) -> CheckResult:
    """Go the whole road with random data, compile at O0, keep nothing.

    Raises:
        HbError: what makertbin would raise, from the same checks.
    """
    talk = talk or Quiet()
    stage = prepare_float(loaded, talk, random_data=True)
    placed = place_stage(stage, talk)
    check_ahead(stage)
    bits = stage.target.multiplier_bits
    if stage.trained:
        ranged = placed.placed.clone()
        attach_ranges(ranged, {}, placed.options)
        quantized = from_ranged(ranged, stage.family, bits)
    else:
        first = [stage.samples[index] for index in range(SAMPLES)]
        job = CalibrationJob(placed.placed, first, stage.family, bits, placed.options)
        quantized = calibrate(job, Method("max")).quantized
    integer = quantized.integer
    removed = remove_nodes(integer, stage.check.remove_node_name, loaded.model_parameters.remove_node_type, talk)
    segments = split_segments(integer)
    talk.info(f"compiling {sum(s.device == 'BPU' for s in segments)} BPU segments at O0")
    compile_model(integer, stage.target, replace(compile_options(loaded), optimize_level="O0"))
    rows = tuple(replace(row, cosine=None, threshold=None) for row in node_table(segments))
    return CheckResult(rows, stage.check.inputs, placed.refused, removed, sum(s.device == "BPU" for s in segments))
