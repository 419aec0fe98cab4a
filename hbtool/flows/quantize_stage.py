"""Placement and calibration: from the optimized float graph to integers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import onnx_ir as ir

from hbtool.calibration.mix import mix
from hbtool.calibration.ranges import Method, MethodName
from hbtool.calibration.search import Calibrated, CalibrationJob, Seen, calibrate, search
from hbtool.config.calibration_section import CalibrationParameters
from hbtool.flows.float_stage import FloatStage
from hbtool.flows.node_requests import NodeRequests, node_requests, settle_types
from hbtool.flows.talk import Talk
from hbtool.ir import graph, meta
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.place import INT16_FAMILIES, PlacementRequest, place
from hbtool.passes.place_trained import place_trained
from hbtool.passes.quantize import Quantized, from_ranged
from hbtool.passes.settle_int16 import RefusedInt16

DEFAULT_PERCENTILE = 0.99995


@dataclass(frozen=True)
class QuantizeStage:
    """The quantized model.

    Attributes:
        placed: the float graph with devices.
        quantized: its integer forms.
        method: how ranges were found, as the log names it.
        calibrated: details of the calibration, None where ranges came with the model.
        refused: int16 requests that fell back to int8.
    """

    placed: ir.Model
    quantized: Quantized
    method: str
    calibrated: Calibrated | None
    refused: tuple[RefusedInt16, ...] = ()


@dataclass(frozen=True)
class PlacedStage:
    """The float graph with a device for every node, and how ranges become meanings.

    Attributes:
        placed: placements and absorbed clamps are marked.
        options: types of values.
        refused: int16 requests that fell back to int8.
    """

    placed: ir.Model
    options: RangeOptions
    refused: tuple[RefusedInt16, ...]


def place_stage(stage: FloatStage, talk: Talk) -> PlacedStage:
    """Place every node and settle the types of values; nothing here needs data."""
    placed = stage.optimized.clone()
    requests: NodeRequests = node_requests(stage, talk)
    request = place_trained(placed, requests.placement) if stage.trained else requests.placement
    place(placed, stage.family, request)
    fuse_clamps(placed)
    _tell_refused_places(placed, requests.placement, talk)
    if request.quantized_outputs is not None:
        _tell_float_outputs(placed, talk)
    int16, refused = settle_types(placed, stage, requests)
    options = RangeOptions(
        asymmetric=stage.loaded.calibration_parameters.optimization.asymmetric,
        int16_values=int16,
        output_type=request.quantized_outputs,
        int16_tail=stage.family in INT16_FAMILIES,
    )
    return PlacedStage(placed, options, refused)


def _tell_refused_places(placed: ir.Model, request: PlacementRequest, talk: Talk) -> None:
    """Say of every node that was asked onto the BPU by name or kind why it is not there."""
    for node in placed.graph:
        name = graph.node_name(node)
        named = name in request.run_on_bpu
        if meta.on_bpu(node) or not (named or node.op_type in request.kinds_on_bpu):
            continue
        asked = "run_on_bpu or node_info" if named else f"optimization: set_{node.op_type}_..."
        talk.warn(f"{asked}: {name} ({node.op_type}) stays on the CPU: {meta.placement(node).reason}")


def _tell_float_outputs(placed: ir.Model, talk: Talk) -> None:
    """Say which outputs stay float although integers were asked for."""
    for value in placed.graph.outputs:
        producer = value.producer()
        if producer is not None and not meta.on_bpu(producer):
            where = f"{graph.node_name(producer)} ({producer.op_type}) runs on the CPU"
            talk.info(f"set_model_output: output {graph.value_name(value)} stays float, because {where}")


def quantize_stage(stage: FloatStage, placed_stage: PlacedStage, talk: Talk, seen: Seen | None = None) -> QuantizeStage:
    """Find ranges and lower to integers; `seen` keeps statistics for further settings of the same float graph."""
    placed, options, refused = placed_stage.placed, placed_stage.options, placed_stage.refused
    bits = stage.target.multiplier_bits
    if stage.trained:
        ranged = placed.clone()
        attach_ranges(ranged, {}, options)
        return QuantizeStage(placed, from_ranged(ranged, stage.family, bits), "load", None, refused)
    parameters = stage.loaded.calibration_parameters
    quant = parameters.quant_config
    correct = parameters.optimization.bias_correction or (
        quant is not None and quant.whole_model.weight.bias_correction is not None
    )
    job = CalibrationJob(placed, stage.samples, stage.family, bits, options, correct, seen)
    found = _calibrate(job, parameters, talk)
    return QuantizeStage(placed, found.quantized, found.description, found, refused)


def _calibrate(job: CalibrationJob, parameters: CalibrationParameters, talk: Talk) -> Calibrated:
    methods = methods_of_quant_config(parameters)
    with talk.progress("calibrating", len(job.samples)) as progress:
        if len(methods) > 1:
            return search(job, methods, progress=progress, say=talk.info)
        if _asks_for_search(parameters):
            return search(job, progress=progress, say=talk.info)
        if methods:
            return calibrate(job, methods[0], progress)
        if parameters.calibration_type == "default":
            return search(job, progress=progress, say=talk.info)
        if parameters.calibration_type == "mix":
            return mix(job, progress=progress, say=talk.info)
        return calibrate(job, method_of(parameters), progress)


def _asks_for_search(parameters: CalibrationParameters) -> bool:
    return parameters.quant_config is not None and parameters.quant_config.whole_model.search


def method_of(parameters: CalibrationParameters) -> Method:
    """The one calibration method that the configuration names."""
    kind = parameters.calibration_type
    percentile = parameters.max_percentile
    name: MethodName = "kl" if kind == "kl" else "mse" if kind == "mse" else "max"
    if kind == "percentile" or (kind == "max" and percentile < 1.0):
        name = "percentile"
    return Method(
        name,
        percentile=percentile if percentile < 1.0 else DEFAULT_PERCENTILE,
        asymmetric=parameters.optimization.asymmetric,
        per_channel=parameters.per_channel,
    )


def methods_of_quant_config(parameters: CalibrationParameters) -> tuple[Method, ...]:
    """The methods that quant_config's `activation` names: empty for none, several for a search over them."""
    quant = parameters.quant_config
    activation = quant.whole_model.activation if quant is not None else None
    if activation is None or not (
        activation.calibration_type or activation.max_percentile or activation.per_channel or activation.asymmetric
    ):
        return ()
    kinds = activation.calibration_type or (("kl",) if parameters.calibration_type == "kl" else ("max",))
    percentiles = activation.max_percentile or (parameters.max_percentile,)
    found = []
    for kind, percentile, channel, shifted in itertools.product(
        kinds, percentiles, activation.per_channel or (False,), activation.asymmetric or (False,)
    ):
        given = parameters.model_copy(update={"calibration_type": kind, "max_percentile": percentile})
        found.append(replace(method_of(given), per_channel=channel, asymmetric=shifted))
    return tuple(dict.fromkeys(found))
