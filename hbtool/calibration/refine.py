"""Refines the ranges that cost the outputs of the model most.

What a range costs is measured with one float model in which any single value can be rounded to int8, all others as they
are: errors of single values tell more than changes of the sum of all, in which a gain is hard to see among the noise of
the rest. The rounding stands in a branch that is only computed for the value that is tried, so a trial costs little
more than a run of the float model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hbtool.calibration.instrument import Instrument, Sample, Samples, float_feeds, float_values, run, spread
from hbtool.calibration.similarity import relative_error
from hbtool.ir import meta
from hbtool.numerics.qtype import INT8, QParams
from hbtool.numerics.ranges import Range, to_qparams

REFINED = 8
"""Values whose range is refined: a few carry most of the error."""
SAMPLES = 16
"""Samples on which ranges are compared; a quarter of them decides which values are."""
STEP = 2.0 ** (1 / 4)
"""Factor between the ranges that are tried."""
_WORTH = 0.97
"""A change of range must bring the error of the outputs below this part of what it was."""
_MOST_STEPS = 8


class OutputErrors:
    """Measures single values against the float outputs of a few samples."""

    def __init__(self, model: ir.Model, names: Sequence[str], samples: Sequence[Sample]) -> None:
        instrument = Instrument(model, keep_outputs=True)
        self.names = list(names)
        self._number = {name: number for number, name in enumerate(names)}
        self._feeds = instrument.one_quantized(names)
        self._session = instrument.session()
        inputs = [i.name for i in self._session.get_inputs() if i.name not in self._feeds]
        self._samples = [dict(float_feeds(sample, inputs)) for sample in samples]
        self._expected = [self._run(number, -1, QParams(INT8, (1.0,))) for number in range(len(samples))]

    def error(self, name: str, q: QParams, samples: int | None = None) -> float:
        """Relative squared error of the worst output, mean over (the first) samples, with only `name` quantized."""
        count = len(self._samples) if samples is None else min(samples, len(self._samples))
        results = [self._run(number, self._number[name], q) for number in range(count)]
        return float(np.mean([worst_error(a, b) for a, b in zip(self._expected, results, strict=False)]))

    def _run(self, sample: int, which: int, q: QParams) -> list[NDArray[Any]]:
        values = (
            np.array([which], np.int64),
            np.array(q.scales, np.float32),
            np.array([q.zero_point], np.int8),
        )
        feeds: dict[str, Any] = {**self._samples[sample], **dict(zip(self._feeds, values, strict=True))}
        return run(self._session, None, feeds, f"calibration sample {sample}")


def worst_error(expected: Sequence[NDArray[Any]], results: Sequence[NDArray[Any]]) -> float:
    """The largest relative squared error of any output."""
    return max((relative_error(a, b) for a, b in zip(expected, results, strict=True)), default=0.0)


def refined_ranges(
    model: ir.Model,
    ranged: ir.Model,
    ranges: Mapping[str, Range],
    samples: Samples,
    asymmetric: bool,
    least_cost: float,
) -> dict[str, Range]:
    """The ranges, those of the most costly int8 values made smaller or larger where that serves the outputs.

    Args:
        model: float graph with placements.
        ranged: the same graph with the meanings that follow from `ranges`.
        ranges: by value name.
        samples: calibration samples, of which `SAMPLES` are used.
        asymmetric: whether ranges become meanings with zero points.
        least_cost: relative error of the outputs from which on a value counts as costly.

    Raises:
        ModelError: the model cannot run.
    """
    values = float_values(ranged)
    meanings = {n: to_qparams(r, INT8, asymmetric) for n, r in ranges.items() if r.axis is None}
    own = [name for name, q in meanings.items() if meta.qparams(values[name]) == q]
    errors = OutputErrors(model, own, spread(samples, SAMPLES))
    cost = {name: errors.error(name, meanings[name], SAMPLES // 4) for name in own}
    worst = sorted((name for name in own if cost[name] >= least_cost), key=lambda name: -cost[name])[:REFINED]
    return {**ranges, **{name: _cheapest(errors, name, ranges[name], asymmetric) for name in worst}}


def _cheapest(errors: OutputErrors, name: str, start: Range, asymmetric: bool) -> Range:
    """The range, some steps smaller or larger than `start`, whose quantization costs the outputs least."""
    best, least = start, errors.error(name, to_qparams(start, INT8, asymmetric))
    for factor in (1 / STEP, STEP):
        found = start
        for _ in range(_MOST_STEPS):
            found = Range((found.low[0] * factor,), (found.high[0] * factor,))
            error = errors.error(name, to_qparams(found, INT8, asymmetric))
            if error > _WORTH * least:
                break
            best, least = found, error
        if best is not start:
            break
    return best
