"""Calibration of a whole model: one method, or the search that `calibration_type: default` stands for.

The search observes the samples once and then tries whole-model settings: a method (max, percentile 0.99995, kl,
mse), symmetric or with zero points, per tensor or per channel. Each is scored by running the *integer* model and
comparing its outputs with the float model's: the mean over some samples of the smallest cosine similarity of any
output. It stops at the first setting that reaches 0.995.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.calibration.instrument import Sample, Samples
from hbtool.calibration.observe import Statistics, Wanted, observe
from hbtool.calibration.ranges import Method, ranges_of
from hbtool.calibration.similarity import similarity
from hbtool.errors import DataError
from hbtool.ir import graph
from hbtool.ir.onnx_session import make_session
from hbtool.numerics.ranges import Range
from hbtool.ops.op import Family, float_op
from hbtool.passes.attach_ranges import RangeOptions, values_to_observe
from hbtool.passes.quantize import Quantized, quantize

GOOD_ENOUGH = 0.995
"""Cosine similarity at which the search stops."""

SCORED_SAMPLES = 8
"""Samples a setting is scored on."""

SEARCH_SPACE: tuple[Method, ...] = (
    Method("max"),
    Method("percentile", percentile=0.99995),
    Method("max", asymmetric=True),
    Method("percentile", percentile=0.99995, asymmetric=True),
    Method("mse", asymmetric=True),
    Method("kl"),
    Method("max", per_channel=True),
    Method("percentile", percentile=0.99995, per_channel=True),
)
"""Whole-model settings in the order they are tried: cheap and usual ones first."""


@dataclass(frozen=True)
class Trial:
    """One setting and how well the integer model did with it."""

    method: Method
    score: float


@dataclass(frozen=True)
class Calibrated:
    """The chosen setting.

    Attributes:
        method: how the ranges were found.
        ranges: by value name.
        options: how ranges become meanings, asymmetric as the method says.
        quantized: the model in its three forms.
        trials: every setting that was tried, in order.
    """

    method: Method
    ranges: Mapping[str, Range]
    options: RangeOptions
    quantized: Quantized
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class CalibrationJob:
    """What is calibrated.

    Attributes:
        placed: float graph with placements and marked clamps.
        samples: sized stream of samples.
        family: BPU family.
        multiplier_bits: width of the target's multiplier.
        options: types the user asked for.
    """

    placed: ir.Model
    samples: Samples
    family: Family
    multiplier_bits: int
    options: RangeOptions


Say = Callable[[str], None]
Progress = Callable[[int], None]


def calibrate(job: CalibrationJob, method: Method, progress: Progress | None = None) -> Calibrated:
    """Calibrate with one method."""
    statistics = _observe(job, [method], progress)
    return _apply(job, statistics, method, ())


def search(
    job: CalibrationJob,
    space: Sequence[Method] = SEARCH_SPACE,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Calibrated:
    """Try the settings of `space` and keep the best.

    Raises:
        DataError: no samples.
    """
    say = say or (lambda _: None)
    statistics = _observe(job, space, progress)
    scorer = Scorer(job.placed, job.samples)
    best: Calibrated | None = None
    trials: list[Trial] = []
    for method in space:
        found = _apply(job, statistics, method, ())
        trial = Trial(method, scorer.score(found.quantized))
        trials.append(trial)
        say(f"{describe(method)}: cosine similarity {trial.score:.6f}")
        if best is None or trial.score > max(t.score for t in trials[:-1]):
            best = found
        if trial.score >= GOOD_ENOUGH:
            break
    assert best is not None, "the search space is not empty"
    say(f"Select {describe(best.method)} method")
    return replace(best, trials=tuple(trials))


def describe(method: Method) -> str:
    """The method as the log names it: `max-percentile:percentile=0.99995,per_channel`."""
    name = "max-percentile" if method.name == "percentile" else method.name
    details = [f"percentile={method.percentile}"] if method.name == "percentile" else []
    details += [flag for flag in ("per_channel", "asymmetric") if getattr(method, flag)]
    return f"{name}:{','.join(details)}" if details else name


class Scorer:
    """Compares integer models with one float model on a few samples; float outputs are computed once."""

    def __init__(self, placed: ir.Model, samples: Samples, count: int = SCORED_SAMPLES) -> None:
        if not len(samples):
            raise DataError("there are no calibration samples")
        session = make_session(placed)
        self._inputs = {v.name: v.type for v in session.get_inputs()}
        self._samples: list[Sample] = []
        self._expected: list[list[Any]] = []
        for sample in samples:
            self._samples.append(sample)
            self._expected.append(session.run(None, {k: v for k, v in sample.items() if k in self._inputs}))
            if len(self._samples) == count:
                break

    def score(self, quantized: Quantized) -> float:
        """Mean over the samples of the smallest cosine similarity of any output."""
        session = make_session(quantized.standard)
        types = {v.name: np.int8 if "int8" in v.type else None for v in session.get_inputs()}
        scores = []
        for sample, expected in zip(self._samples, self._expected, strict=True):
            feeds = {k: as_graph_input(sample[k], kind) for k, kind in types.items()}
            results = session.run(None, feeds)
            scores.append(min(similarity(a, b).cosine for a, b in zip(expected, results, strict=True)))
        return float(np.mean(scores))


def as_graph_input(array: Any, integer: Any) -> Any:
    """A sample of the float graph as the quantized graph takes it: images rounded to int8."""
    if integer is None:
        return array
    return np.clip(np.rint(np.asarray(array, np.float32)), -128, 127).astype(integer)


def _observe(job: CalibrationJob, methods: Sequence[Method], progress: Progress | None) -> dict[str, Statistics]:
    names = values_to_observe(job.placed)
    wanted = Wanted(
        histogram=any(m.wanted().histogram for m in methods),
        channel_histogram=any(m.wanted().channel_histogram for m in methods),
        nonnegative=_nonnegative(job.placed),
    )
    return observe(job.placed, names, job.samples, wanted, progress) if names else {}


def _nonnegative(model: ir.Model) -> frozenset[str]:
    """Values that a clamp at 0 or above writes."""
    names = []
    for node in model.graph:
        op = float_op(node)
        bounds = op.clamp(node) if op is not None else None
        if bounds is not None and bounds[0] >= 0:
            names.append(graph.value_name(node.outputs[0]))
    return frozenset(names)


def _apply(
    job: CalibrationJob, statistics: Mapping[str, Statistics], method: Method, trials: tuple[Trial, ...]
) -> Calibrated:
    ranges = ranges_of(statistics, method)
    options = replace(job.options, asymmetric=job.options.asymmetric or method.asymmetric)
    quantized = quantize(job.placed, ranges, options, job.family, job.multiplier_bits)
    return Calibrated(method, ranges, options, quantized, trials)
