"""Calibration of a whole model: one method, or the search that `calibration_type: default` stands for.

The search observes the samples once and then tries whole-model settings: a method (reader-mse, max, percentile
0.99995, kl, mse), symmetric or with zero points, per tensor or per channel. Each is measured by running the *integer*
model and comparing its outputs with the float model's (`scorer`); it stops at the first setting whose cosine similarity
reaches 0.995. Of the settings tried the one of least error is taken. Its most costly ranges are then refined
(`refine`), and its biases corrected (`bias_correction`); each is kept if the error falls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from hbtool.calibration.bias_correction import correct_biases
from hbtool.calibration.instrument import Samples
from hbtool.calibration.observe import Statistics, Wanted, observe
from hbtool.calibration.ranges import Method, ranges_of
from hbtool.calibration.reader_error import least_reader_error
from hbtool.calibration.refine import refined_ranges
from hbtool.calibration.scorer import Scorer
from hbtool.ir import graph
from hbtool.numerics.qtype import INT16
from hbtool.numerics.ranges import Range
from hbtool.ops.op import Family, float_op
from hbtool.passes.attach_ranges import RangeOptions, values_to_observe
from hbtool.passes.quantize import Quantized, from_ranged, quantize

GOOD_ENOUGH = 0.995
"""Cosine similarity at which the search stops."""

ALMOST_PERFECT = 0.9998
"""Cosine similarity from which on refining ranges and correcting biases are not worth their passes."""

WORTH_REFINING = 0.01
"""Share of the whole error that the quantization of one value must cost for its range to be refined."""

SEARCH_SPACE: tuple[Method, ...] = (
    Method("reader-mse", asymmetric=True),
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
the first good one."""


@dataclass(frozen=True)
class Trial:
    """One setting and how well the integer model did with it.

    Attributes:
        method: the setting.
        score: mean over samples of the smallest cosine similarity of any output.
        error: mean over samples of the largest relative squared error of any output; the smaller, the better.
        refined: whether single ranges were refined.
        corrected: whether biases were corrected.
    """

    method: Method
    score: float
    error: float
    refined: bool = False
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
        refined: values whose range was refined.
        corrected: whether biases were corrected.
        changed: values whose range `mix` took from another method, with that method.
    """

    method: Method
    ranges: Mapping[str, Range]
    options: RangeOptions
    quantized: Quantized
    trials: tuple[Trial, ...] = ()
    refined: tuple[str, ...] = ()
    corrected: bool = False
    changed: Mapping[str, Method] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """The setting as the log names it."""
        text = describe(self.method)
        if self.changed:
            text += f" with {len(self.changed)} values by other methods"
        if self.refined:
            text += f", {len(self.refined)} ranges refined"
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
    found = apply_ranges(job, find_ranges(job, statistics, method), method)
    return with_corrected_biases(job, found) if job.bias_correction else found


def search(
    job: CalibrationJob,
    space: Sequence[Method] = SEARCH_SPACE,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Calibrated:
    """Try the settings of `space`, improve the best one, and keep what was best.

    Raises:
        DataError: no samples.
    """
    say = say or (lambda _: None)
    statistics = observe_job(job, space, progress)
    scorer = Scorer(job.placed, job.samples)
    best = best_setting(job, statistics, scorer, space, say)
    best = refine_if_better(job, best, scorer, say)
    best = correct_if_better(job, best, scorer, say)
    say(f"Select {best.description} method.")
    return best


def best_setting(
    job: CalibrationJob, statistics: Mapping[str, Statistics], scorer: Scorer, space: Sequence[Method], say: Say
) -> Calibrated:
    """The whole-model setting of least error, with all trials; stops at the first good one.

    The first setting is also tried with corrected biases: where weights lose most, no other setting helps.
    """
    best: Calibrated | None = None
    trials: list[Trial] = []
    for method in space:
        found = apply_ranges(job, find_ranges(job, statistics, method), method)
        trial = tried(found, scorer, say)
        if best is None or trial.error < min(t.error for t in trials):
            best = found
        trials.append(trial)
        if trial.score < GOOD_ENOUGH and len(trials) == 1:
            corrected = with_corrected_biases(job, found)
            trial = tried(corrected, scorer, say)
            best = corrected if trial.error < trials[0].error else found
            trials.append(trial)
        if trial.score >= GOOD_ENOUGH:
            say(f"The cosine similarity reached {GOOD_ENOUGH}: the search stops here.")
            break
    assert best is not None, "the search space is not empty"
    return replace(best, trials=tuple(trials))


def tried(found: Calibrated, scorer: Scorer, say: Say) -> Trial:
    """Measure a setting and say what came out."""
    closeness = scorer.measure(found.quantized)
    say(f"{found.description}: cosine similarity {closeness.cosine:.6f}, error {closeness.error:.6f}")
    return Trial(found.method, closeness.cosine, closeness.error, bool(found.refined), found.corrected)


def refine_if_better(job: CalibrationJob, found: Calibrated, scorer: Scorer, say: Say) -> Calibrated:
    """The setting with its most costly ranges refined, where that lowers the error."""
    if best_trial(found).score >= ALMOST_PERFECT:
        return found
    least_cost = WORTH_REFINING * best_trial(found).error
    ranges = refined_ranges(
        job.placed, found.quantized.ranged, found.ranges, job.samples, found.options.asymmetric, least_cost
    )
    changed = tuple(name for name, range_ in ranges.items() if range_ != found.ranges[name])
    if not changed:
        return found
    refined = replace(apply_ranges(job, ranges, found.method), changed=found.changed, refined=changed)
    if found.corrected:
        refined = with_corrected_biases(job, refined)
    return better(found, refined, tried(refined, scorer, say))


def correct_if_better(job: CalibrationJob, found: Calibrated, scorer: Scorer, say: Say) -> Calibrated:
    """The setting with corrected biases where that lowers the error, or where the user asked for it."""
    if found.corrected or (best_trial(found).score >= ALMOST_PERFECT and not job.bias_correction):
        return found
    corrected = with_corrected_biases(job, found)
    trial = tried(corrected, scorer, say)
    if job.bias_correction:
        return replace(corrected, trials=(*found.trials, trial))
    return better(found, corrected, trial)


def better(found: Calibrated, other: Calibrated, trial: Trial) -> Calibrated:
    """The better one of the best setting so far and another one, whose trial is added."""
    wins = trial.error < best_trial(found).error
    return replace(other if wins else found, trials=(*found.trials, trial))


def best_trial(found: Calibrated) -> Trial:
    """The trial of least error."""
    return min(found.trials, key=lambda t: t.error)


def describe(method: Method) -> str:
    """The method as the log names it: `max-percentile:percentile=0.99995,per_channel`."""
    name = "max-percentile" if method.name == "percentile" else method.name
    details = [f"percentile={method.percentile}"] if method.name == "percentile" else []
    details += [flag for flag in ("per_channel", "asymmetric") if getattr(method, flag)]
    return f"{name}:{','.join(details)}" if details else name


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


def find_ranges(job: CalibrationJob, statistics: Mapping[str, Statistics], method: Method) -> dict[str, Range]:
    """The ranges that a method gives, each for the type its value will have."""
    wide = frozenset(job.options.int16_values) & statistics.keys()
    if method.name == "reader-mse":
        largest = ranges_of(statistics, replace(method, name="max"))
        asymmetric = job.options.asymmetric or method.asymmetric
        return least_reader_error(job.placed, largest, job.samples, asymmetric, wide)
    found = ranges_of(statistics, method)
    return {**found, **ranges_of({name: statistics[name] for name in wide}, replace(method, type=INT16))}


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
