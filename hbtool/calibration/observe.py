"""Streams samples through a float model and keeps what calibration needs to know of its values.

Minimum and maximum are exact. Histograms count every element of small tensors and an even selection of large ones:
over the whole pass about `Wanted.elements` of each value, picked per channel with a step that shares no factor with the
channel's size, and a start that moves from sample to sample, so that no position is left out. Memory does not depend on
the number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from hbtool.calibration.histogram import Histogram, Resolution
from hbtool.calibration.instrument import Instrument, Sample, Samples, float_feeds, run
from hbtool.errors import DataError, ModelError

ELEMENTS = 1 << 21
"""Elements of one value that a pass counts: the 0.99995 percentile then rests on 100 elements beyond it."""
SMALLEST_SELECTION = 1 << 12
"""Elements of one value that every sample contributes at least (where it has as many)."""
_CHANNEL_RESOLUTION = Resolution(mantissa_bits=4)


@dataclass(frozen=True)
class Wanted:
    """What to collect beyond minimum and maximum per tensor and per channel.

    Attributes:
        histogram: count elements per tensor (percentile, kl, mse).
        channel_histogram: count elements per channel as well.
        channel_axis: the axis of the channels.
        elements: elements of one value to count over the whole pass, about.
        nonnegative: values that cannot be negative (a Relu's output): their minimum is taken as 0 without looking.
            Every integer range holds 0 anyway, and minima cost more than all else in a pass.
    """

    histogram: bool = False
    channel_histogram: bool = False
    channel_axis: int = 1
    elements: int = ELEMENTS
    nonnegative: frozenset[str] = frozenset()


@dataclass
class Statistics:
    """What is known of one value.

    Attributes:
        low: smallest element seen.
        high: largest element seen.
        channel_low: smallest element per channel `[C]`, None where the value has no channel axis.
        channel_high: largest element per channel `[C]`.
        histogram: counts per tensor, None where not asked for.
        channel_histogram: counts per channel.
    """

    low: float
    high: float
    channel_low: NDArray[np.float64] | None = None
    channel_high: NDArray[np.float64] | None = None
    histogram: Histogram | None = None
    channel_histogram: Histogram | None = None


@dataclass
class _Probe:
    """One observed value: what of it stands where among the session's outputs, and its histograms.

    Attributes:
        name: the value.
        shape: its shape.
        axis: its channel axis, None where it has none.
        extremes: its part of the concatenated minima and maxima.
        picked: its part of the concatenated elements that are counted (empty where nothing is).
        step: distance of these elements: every `step`-th column of the value as a matrix whose rows are the indices up
            to the channel axis.
        histogram: counts per tensor.
        channel_histogram: counts per channel.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None
    extremes: slice
    picked: slice
    step: int
    histogram: Histogram | None = None
    channel_histogram: Histogram | None = None

    @property
    def kept(self) -> int:
        """Number of minima, and of maxima: one per index up to the channel axis."""
        return self.extremes.stop - self.extremes.start

    @property
    def columns(self) -> int:
        """Elements behind one index up to the channel axis."""
        return math.prod(self.shape) // self.kept

    def window(self, phase: int) -> tuple[int, int]:
        """First column of a sample's selection, and the end before which its last one lies."""
        span = self.step * (self.columns // self.step - 1) + 1
        start = phase % (self.columns - span + 1)
        return start, start + span

    def channel(self) -> NDArray[np.int32]:
        """The channel of each selected element."""
        assert self.axis is not None
        rows = np.arange(self.kept, dtype=np.int32) % np.int32(self.shape[self.axis])
        return np.repeat(rows, self.columns // self.step)

    def statistics(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> Statistics:
        """What was found, given all minima and maxima over all samples."""
        low, high = low[self.extremes].astype(np.float64), high[self.extremes].astype(np.float64)
        found = Statistics(float(low.min()), float(high.max()))
        found.histogram, found.channel_histogram = self.histogram, self.channel_histogram
        if self.axis is not None:
            found.channel_low = low.reshape(-1, self.shape[self.axis]).min(axis=0)
            found.channel_high = high.reshape(-1, self.shape[self.axis]).max(axis=0)
        return found


def observe(
    model: ir.Model,
    value_names: Iterable[str],
    samples: Samples,
    wanted: Wanted | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Statistics]:
    """Run every sample once and collect the statistics of the named values.

    Args:
        model: a float model with static shapes.
        value_names: float32 values of its main graph, inputs included; a repeated name counts once.
        samples: sized and iterable; each sample maps the model's input names to arrays.
        wanted: what to collect.
        progress: called after each sample with the number of samples done.

    Returns:
        name -> statistics, in the order of the names.

    Raises:
        DataError: no samples, or a value becomes NaN or infinite on one.
        ModelError: a name is unknown, or the model cannot run.
    """
    if not len(samples):
        raise DataError("there are no calibration samples")
    bench = _Bench(model, list(dict.fromkeys(value_names)), wanted or Wanted(), len(samples))
    for number, sample in enumerate(samples):
        bench.take(sample, number)
        if progress is not None:
            progress(number + 1)
    return {probe.name: probe.statistics(bench.low, bench.high) for probe in bench.probes}


class _Bench:
    """The instrumented model and what it has seen so far."""

    def __init__(self, model: ir.Model, names: list[str], wanted: Wanted, samples: int) -> None:
        instrument = Instrument(model)
        self.probes = _probes(instrument, names, wanted, samples)
        self._counted = wanted.histogram or wanted.channel_histogram
        self._strided = [p for p in self.probes if self._counted and p.step > 1]
        guards = [instrument.reduce("ReduceMean", n, None) for n in instrument.own_float_outputs()]
        sources = [instrument.rows(p.name, p.kept) if p in self._strided else p.name for p in self.probes]
        joined = [*_extremes(instrument, self.probes, sources, wanted.nonnegative), guards]
        self._windows, bounds = (
            instrument.numbers("windows", 2 * len(self._strided), onnx.TensorProto.INT64) if self._strided else ("", [])
        )
        if self._counted:
            joined.append(_selections(instrument, self.probes, sources, bounds))
        self._outputs = [instrument.output(instrument.joined(part)) for part in joined]
        self._session = instrument.session()
        self._inputs = [i.name for i in self._session.get_inputs()]
        self._tensors = _tensor_histograms(self.probes) if wanted.histogram else None
        self.low = np.full(self.probes[-1].extremes.stop if self.probes else 0, np.inf, np.float32)
        self.high = -self.low

    def take(self, sample: Sample, number: int) -> None:
        """Run one sample and take in what it shows."""
        feeds: dict[str, Any] = float_feeds(sample, self._inputs)
        phase = _phase(number)
        if self._strided:
            feeds[self._windows] = np.array([p.window(phase) for p in self._strided], np.int64).ravel()
        low, high, guard, *picked = run(self._session, self._outputs, feeds, f"calibration sample {number}")
        np.minimum(self.low, low, out=self.low)
        np.maximum(self.high, high, out=self.high)
        self._check_finite(guard, number)
        if picked:
            self._count(picked[0])

    def _count(self, elements: NDArray[np.float32]) -> None:
        """Put one sample's selections into the histograms; those of tensors in one go, as groups of one."""
        if self._tensors is not None:
            histogram, group = self._tensors
            histogram.add(elements, group)
        for probe in self.probes:
            if probe.channel_histogram is not None:
                probe.channel_histogram.add(elements[probe.picked], probe.channel())

    def _check_finite(self, guard: NDArray[np.float32], number: int) -> None:
        """Refuse infinities in the values, and NaN by the means of the outputs: it passes a minimum unseen."""
        finite = np.isfinite(self.low) & np.isfinite(self.high)
        if finite.all() and np.isfinite(guard).all():
            return
        culprit = next((p.name for p in self.probes if not finite[p.extremes].all()), None)
        raise DataError(
            f"the value {culprit!r} of the float model becomes infinite"
            if culprit is not None
            else "an output of the float model becomes NaN or infinite",
            where=f"calibration sample {number}",
            hint="Check this sample's data, the normalization (mean_value, scale_value) and the weights for NaN.",
        )


def _probes(instrument: Instrument, names: list[str], wanted: Wanted, samples: int) -> list[_Probe]:
    """A probe per value, one behind the other in the outputs."""
    selection = max(SMALLEST_SELECTION, -(-wanted.elements // samples))
    probes: list[_Probe] = []
    extreme = element = 0
    for name in names:
        shape = instrument.shape(name)
        size = math.prod(shape)
        if size == 0:
            raise ModelError("holds no elements, so it has no range", where=name)
        axis = wanted.channel_axis if len(shape) > wanted.channel_axis else None
        kept = math.prod(shape[: axis + 1]) if axis is not None else 1
        columns = size // kept
        step = _step(columns, -(-selection // kept))
        picked = slice(element, element + kept * (columns // step))
        probe = _Probe(name, shape, axis, slice(extreme, extreme + kept), picked, step)
        if wanted.channel_histogram and axis is not None:
            probe.channel_histogram = Histogram(_CHANNEL_RESOLUTION, groups=shape[axis])
        probes.append(probe)
        extreme, element = probe.extremes.stop, probe.picked.stop
    return probes


def _extremes(
    instrument: Instrument, probes: list[_Probe], sources: list[str], nonnegative: Collection[str]
) -> tuple[list[str], list[str]]:
    """Add the minima and the maxima of every value; minima of matrices where there is one already."""
    minima, maxima = [], []
    for probe, source in zip(probes, sources, strict=True):
        axes = tuple(range(probe.axis + 1, len(probe.shape))) if probe.axis is not None else None
        if probe.name in nonnegative:
            minima.append(instrument.zeros(probe.kept))
        else:
            minima.append(instrument.reduce("ReduceMin", source, axes if source == probe.name else (1,)))
        maxima.append(instrument.maximum(probe.name, axes))
    return minima, maxima


def _selections(instrument: Instrument, probes: list[_Probe], sources: list[str], bounds: list[str]) -> list[str]:
    """Add the elements of every value that are counted; `bounds` holds start and end of each window."""
    left = iter(bounds)
    pairs = zip(probes, sources, strict=True)
    return [instrument.columns(s, next(left), next(left), p.step) if p.step > 1 else s for p, s in pairs]


def _tensor_histograms(probes: list[_Probe]) -> tuple[Histogram, NDArray[np.int32]]:
    """One histogram with a group per value, of which each probe gets its own, and the group of each element."""
    histogram = Histogram(groups=len(probes))
    for index, probe in enumerate(probes):
        probe.histogram = histogram.part(index)
    sizes = [p.picked.stop - p.picked.start for p in probes]
    return histogram, np.repeat(np.arange(len(probes), dtype=np.int32), sizes)


def _step(columns: int, selection: int) -> int:
    """Step that picks about `selection` of the columns, without a factor in common with their number.

    Such a step never stays in one column of an image.
    """
    step = min(max(1, round(columns / selection)), columns)
    while step > 1 and math.gcd(step, columns) != 1:
        step -= 1
    return step


def _phase(number: int) -> int:
    """Where the selection of a sample starts: multiples of the golden ratio visit every residue evenly."""
    return number * 40503 % 65536
