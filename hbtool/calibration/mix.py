"""`calibration_type: mix`: the method is chosen value by value, where it matters.

It starts from the best whole-model setting. The values with the largest error of their own (noise of their quantization
over their power, from the histograms) are then taken one after the other: each gets the range of every other method in
turn, the integer model runs, and the range stays that gives the outputs the best score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hbtool.calibration.histogram import Histogram
from hbtool.calibration.observe import Statistics
from hbtool.calibration.ranges import Method, range_of
from hbtool.calibration.scorer import Scorer
from hbtool.calibration.search import (
    GOOD_ENOUGH,
    SEARCH_SPACE,
    Calibrated,
    CalibrationJob,
    Progress,
    Say,
    Trial,
    apply_ranges,
    best_setting,
    best_trial,
    correct_if_better,
    describe,
    observe_job,
    refine_if_better,
)
from hbtool.numerics.qtype import QParams, dequantize, quantize
from hbtool.numerics.ranges import Range, to_qparams

SENSITIVE_VALUES = 10
"""Values that are tried; each costs a few runs of the whole integer model."""

CANDIDATES: tuple[Method, ...] = (
    Method("max"),
    Method("percentile", percentile=0.99995),
    Method("percentile", percentile=0.9999),
    Method("kl"),
    Method("mse"),
)
"""Methods a value may take its range from; they keep both ends where the whole model does."""

_WORTH = 0.999
"""A change of range must bring the error below this part of what it was."""


def mix(
    job: CalibrationJob,
    space: Sequence[Method] = SEARCH_SPACE,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Calibrated:
    """Search the whole-model settings, then improve the most sensitive values.

    Raises:
        DataError: no samples.
    """
    say = say or (lambda _: None)
    statistics = observe_job(job, [*space, *CANDIDATES], progress)
    scorer = Scorer(job.placed, job.samples)
    best = best_setting(job, statistics, scorer, space, say)
    for name in sensitive_values(statistics, best):
        if best_trial(best).score >= GOOD_ENOUGH:
            break
        best = _improve(job, statistics[name], name, best, scorer, say)
    best = refine_if_better(job, best, scorer, say)
    best = correct_if_better(job, best, scorer, say)
    say(f"Select {best.description} method.")
    return best


def sensitive_values(statistics: Mapping[str, Statistics], found: Calibrated) -> list[str]:
    """The values whose quantization loses most, worst first."""
    errors = {}
    for name, seen in statistics.items():
        if seen.histogram is not None and found.ranges[name].axis is None:
            q = to_qparams(found.ranges[name], asymmetric_=found.options.asymmetric)
            errors[name] = noise_share(seen.histogram, q)
    return sorted(errors, key=lambda name: -errors[name])[:SENSITIVE_VALUES]


def noise_share(histogram: Histogram, q: QParams) -> float:
    """Squared error of quantizing what a histogram holds, over its power; 0 for a value that is always zero."""
    values, counts = histogram.signed()
    power = float((values**2 * counts).sum())
    noise = float(((dequantize(quantize(values, q), q) - values) ** 2 * counts).sum())
    return noise / power if power else 0.0


def _improve(
    job: CalibrationJob, seen: Statistics, name: str, best: Calibrated, scorer: Scorer, say: Say
) -> Calibrated:
    """The setting in which value `name` has the range that serves the outputs best."""
    error = best_trial(best).error
    tried: set[Range] = {best.ranges[name]}
    for candidate in CANDIDATES:
        method = replace(candidate, asymmetric=best.method.asymmetric)
        range_ = range_of(seen, method)
        if range_ in tried:
            continue
        tried.add(range_)
        found = apply_ranges(job, {**best.ranges, name: range_}, best.method)
        closeness = scorer.measure(found.quantized)
        trial = Trial(best.method, closeness.cosine, closeness.error)
        if trial.error < _WORTH * error:
            error = trial.error
            say(f"{name}: {describe(method)}, cosine similarity {trial.score:.6f}, error {error:.6f}")
            changed = {**best.changed, name: method}
            best = replace(found, trials=(*best.trials, trial), changed=changed)
    return best
