"""Calibration of a whole model: one method, or the search that `calibration_type: default` stands for.

The search observes the samples once and then tries whole-model settings: a method (max, percentile 0.99995, kl,
mse), symmetric or with zero points, per tensor or per channel. Each is scored by running the *integer* model and
comparing its outputs with the float model's: the mean over some samples of the smallest cosine similarity of any
output. It stops at the first setting that reaches 0.995. Then the biases of the best one are corrected, which is kept
if the score rises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.calibration.bias_correction import correct_biases
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
from hbtool.passes.quantize import Quantized, from_ranged, quantize

GOOD_ENOUGH = 0.995
"""Cosine similarity at which the search stops."""

SCORED_SAMPLES = 16
"""Samples a setting is scored on."""

ALMOST_PERFECT = 0.9995
"""Cosine similarity from which on correcting biases is not worth its two passes."""

SEARCH_SPACE: tuple[Method, ...] = (
    Method("mse", asymmetric=True),
    Method("percentile", percentile=0.99995, asymmetric=True),
    Method("max", asymmetric=True),
    Method("max"),
    Method("percentile", percentile=0.99995),
    Method("kl"),
    Method("max", per_channel=True),
    Method("percentile", percentile=0.99995, per_channel=True),
)
"""Whole-model settings in the order they are tried. Those that win most often come first, because the search stops at
the first good one: with `max` first, LPRNet stopped at a cosine of 0.9976 and lost four plates of a hundred."""


@dataclass(frozen=True)
class Trial:
    """One setting and how well the integer model did with it.

    Attributes:
        method: the setting.
        score: mean over samples of the smallest cosine similarity of any output.
        corrected: whether biases were corrected.
    """

    method: Method
    score: float
    corrected: bool = False


@dataclass(frozen=True)
class Calibrated:
    """The chosen setting.

    Attributes:
        method: how the ranges were found.
        ranges: by value name.
        options: how ranges become meanings, asymmetric as the method says.
        quantized: the model in its three forms.
        trials: every setting that was tried, in order.
        corrected: whether biases were corrected.
        changed: values whose range `mix` took from another method, with that method.
    """

    method: Method
    ranges: Mapping[str, Range]
    options: RangeOptions
    quantized: Quantized
    trials: tuple[Trial, ...] = ()
    corrected: bool = False
    changed: Mapping[str, Method] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """The setting as the log names it."""
        text = describe(self.method)
        if self.changed:
            text += f" with {len(self.changed)} values by other methods"
        return f"{text}, bias_correction" if self.corrected else text


class Seen:
    """Statistics that passes over the same samples of the same float numbers have found, so that none is done twice."""

    def __init__(self) -> None:
        self._statistics: dict[str, Statistics] = {}

    def complete(
        self, names: Sequence[str], wanted: Wanted, look: Callable[[Sequence[str]], Mapping[str, Statistics]]
    ) -> dict[str, Statistics]:
        """The statistics of `names`; `look` is called for those that lack something of `wanted`."""
        missing = [n for n in names if n not in self._statistics or not _has(self._statistics[n], wanted)]
        if missing:
            self._statistics.update(look(missing))
        return {n: self._statistics[n] for n in names}


def _has(statistics: Statistics, wanted: Wanted) -> bool:
    """Whether a value's statistics hold what is wanted (no channel histogram where the value has no channels)."""
    channels = statistics.channel_histogram is not None or statistics.channel_low is None
    return (not wanted.histogram or statistics.histogram is not None) and (not wanted.channel_histogram or channels)


@dataclass(frozen=True)
class CalibrationJob:
    """What is calibrated.

    Attributes:
        placed: float graph with placements and marked clamps.
        samples: sized stream of samples.
        family: BPU family.
        multiplier_bits: width of the target's multiplier.
        options: types the user asked for.
        bias_correction: correct biases whatever the score says.
        seen: statistics from earlier passes over these samples, for jobs that differ in other things; None looks anew.
    """

    placed: ir.Model
    samples: Samples
    family: Family
    multiplier_bits: int
    options: RangeOptions
    bias_correction: bool = False
    seen: Seen | None = None


Say = Callable[[str], None]
Progress = Callable[[int], None]


def calibrate(job: CalibrationJob, method: Method, progress: Progress | None = None) -> Calibrated:
    """Calibrate with one method."""
    statistics = observe_job(job, [method], progress)
    found = apply_ranges(job, ranges_of(statistics, method), method)
    return with_corrected_biases(job, found) if job.bias_correction else found


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
    statistics = observe_job(job, space, progress)
    scorer = Scorer(job.placed, job.samples)
    best = best_setting(job, statistics, scorer, space, say)
    best = correct_if_better(job, best, scorer, say)
    say(f"Select {best.description} method.")
    return best


def best_setting(
    job: CalibrationJob, statistics: Mapping[str, Statistics], scorer: Scorer, space: Sequence[Method], say: Say
) -> Calibrated:
    """The whole-model setting of the best score, with all trials; stops at the first good one."""
    best: Calibrated | None = None
    trials: list[Trial] = []
    for method in space:
        found = apply_ranges(job, ranges_of(statistics, method), method)
        trial = Trial(method, scorer.score(found.quantized))
        say(f"{describe(method)}: cosine similarity {trial.score:.6f}")
        if best is None or trial.score > max(t.score for t in trials):
            best = found
        trials.append(trial)
        if trial.score >= GOOD_ENOUGH:
            say(f"The cosine similarity reached {GOOD_ENOUGH}: the search stops here.")
            break
    assert best is not None, "the search space is not empty"
    return replace(best, trials=tuple(trials))


def correct_if_better(job: CalibrationJob, found: Calibrated, scorer: Scorer, say: Say) -> Calibrated:
    """The setting with corrected biases where that raises the score, or where the user asked for it."""
    score = max(t.score for t in found.trials)
    if score >= ALMOST_PERFECT and not job.bias_correction:
        return found
    corrected = with_corrected_biases(job, found)
    trial = Trial(found.method, scorer.score(corrected.quantized), corrected=True)
    say(f"{corrected.description}: cosine similarity {trial.score:.6f}")
    better = trial.score > score or job.bias_correction
    return replace(corrected if better else found, trials=(*found.trials, trial))


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


def observe_job(
    job: CalibrationJob, methods: Sequence[Method], progress: Progress | None = None
) -> dict[str, Statistics]:
    """The statistics that `methods` read, in one pass over the samples."""
    names = values_to_observe(job.placed)
    wanted = Wanted(
        histogram=any(m.wanted().histogram for m in methods),
        channel_histogram=any(m.wanted().channel_histogram for m in methods),
        nonnegative=_nonnegative(job.placed),
    )
    if not names:
        return {}
    seen = job.seen or Seen()
    return seen.complete(names, wanted, lambda missing: observe(job.placed, missing, job.samples, wanted, progress))


def _nonnegative(model: ir.Model) -> frozenset[str]:
    """Values that a clamp at 0 or above writes."""
    names = []
    for node in model.graph:
        op = float_op(node)
        bounds = op.clamp(node) if op is not None else None
        if bounds is not None and bounds[0] >= 0:
            names.append(graph.value_name(node.outputs[0]))
    return frozenset(names)


def apply_ranges(job: CalibrationJob, ranges: Mapping[str, Range], method: Method) -> Calibrated:
    """The model quantized with these ranges, which `method` found."""
    options = replace(job.options, asymmetric=job.options.asymmetric or method.asymmetric)
    quantized = quantize(job.placed, ranges, options, job.family, job.multiplier_bits)
    return Calibrated(method, ranges, options, quantized)


def with_corrected_biases(job: CalibrationJob, found: Calibrated) -> Calibrated:
    """The same setting with biases that make up for the mean error."""
    ranged = correct_biases(found.quantized.ranged, job.placed, job.samples, job.family, job.multiplier_bits)
    return replace(found, quantized=from_ranged(ranged, job.family, job.multiplier_bits), corrected=True)
