"""Placement and calibration: from the optimized float graph to integers."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from hbtool.calibration.ranges import Method, MethodName
from hbtool.calibration.search import Calibrated, CalibrationJob, calibrate, describe, search
from hbtool.config.calibration_section import CalibrationParameters
from hbtool.flows.float_stage import INT_TYPES, FloatStage, placement_request
from hbtool.flows.int16_requests import int16_values
from hbtool.flows.talk import Talk
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.place import INT16_FAMILIES, place
from hbtool.passes.place_trained import place_trained
from hbtool.passes.quantize import Quantized, from_ranged

DEFAULT_PERCENTILE = 0.99995


@dataclass(frozen=True)
class QuantizeStage:
    """The quantized model.

    Attributes:
        placed: the float graph with devices.
        quantized: its integer forms.
        method: how ranges were found, as the log names it.
        calibrated: details of the calibration, None where ranges came with the model.
    """

    placed: ir.Model
    quantized: Quantized
    method: str
    calibrated: Calibrated | None


def quantize_stage(stage: FloatStage, talk: Talk) -> QuantizeStage:
    """Place every node, find ranges, lower to integers."""
    placed = stage.optimized.clone()
    request = placement_request(stage)
    if stage.trained:
        request = place_trained(placed, request)
    place(placed, stage.family, request)
    fuse_clamps(placed)
    flags = stage.loaded.calibration_parameters.optimization
    options = RangeOptions(
        asymmetric=flags.asymmetric,
        int16_values=int16_values(placed, stage.check, stage.loaded, talk),
        output_type=INT_TYPES.get(flags.model_output or ""),
        int16_tail=stage.family in INT16_FAMILIES,
    )
    bits = stage.target.multiplier_bits
    if stage.trained:
        ranged = placed.clone()
        attach_ranges(ranged, {}, options)
        return QuantizeStage(placed, from_ranged(ranged, stage.family, bits), "load", None)
    job = CalibrationJob(placed, stage.samples, stage.family, bits, options)
    found = _calibrate(job, stage.loaded.calibration_parameters, talk)
    return QuantizeStage(placed, found.quantized, describe(found.method), found)


def _calibrate(job: CalibrationJob, parameters: CalibrationParameters, talk: Talk) -> Calibrated:
    with talk.progress("calibrating", len(job.samples)) as progress:
        if parameters.calibration_type in ("default", "mix"):
            return search(job, progress=progress, say=talk.info)
        return calibrate(job, method_of(parameters), progress)


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
