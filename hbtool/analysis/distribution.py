"""What weights and values look like: histograms against the calibrated threshold, ranges per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hbtool.analysis.readout import Readout, limited
from hbtool.analysis.subject import Points, Subject, float_form
from hbtool.errors import DataError
from hbtool.ir import graph, meta

BINS = 101
_KEPT_PER_SAMPLE = 20_000
_IMBALANCED = 10.0
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """One tensor over the samples.

    Attributes:
        node: the node that owns it.
        name: value or weight.
        kind: `weight` or `activation`.
        low: smallest element.
        high: largest element.
        mean: mean of the kept elements.
        variance: their variance.
        threshold: largest magnitude the integers hold, None where it stays float.
        outside: share of the kept elements beyond the threshold.
        counts: elements per bin, `BINS` of equal width between `low` and `high`.
        channels: low, quartiles and high per channel `[C, 5]`, None where there is no channel axis.
    """

    node: str
    name: str
    kind: str
    low: float
    high: float
    mean: float
    variance: float
    threshold: float | None
    outside: float
    counts: tuple[int, ...]
    channels: FloatArray | None

    @property
    def imbalance(self) -> float:
        """Largest magnitude of any channel over the median channel's; 1 where there are no channels."""
        if self.channels is None or len(self.channels) < 2:
            return 1.0
        magnitudes = np.abs(self.channels[:, [0, 4]]).max(axis=1)
        middle = float(np.median(magnitudes))
        return float(magnitudes.max()) / middle if middle > 0 else 1.0

    @property
    def widest_channel(self) -> int:
        """Number of the channel with the largest magnitude."""
        return int(np.abs(self.channels[:, [0, 4]]).max(axis=1).argmax()) if self.channels is not None else 0

    @property
    def remark(self) -> str:
        """What is unusual, empty where nothing is."""
        if self.low == self.high:
            return "constant"
        if self.kind == "activation" and self.imbalance > _IMBALANCED:
            return (
                f"channel {self.widest_channel} is {self.imbalance:.0f} times as wide as the median channel and takes "
                "the steps of the others; equalize, per_channel or int16"
            )
        if self.outside > 0.01:
            return f"{self.outside:.1%} of the elements are cut off"
        return ""


def distributions(subject: Subject, nodes: Sequence[str] = (), samples: int = 4) -> tuple[Distribution, ...]:
    """Weights and activations of the nodes (all if empty), in graph order.

    Raises:
        DataError: no samples. UsageError: an unknown node.
    """
    chosen = limited(subject.samples, samples)
    if not chosen:
        raise DataError("there are no samples to look at")
    found = Points(subject.ranged).find(nodes)
    floats = float_form(subject.ranged)
    values = _values(floats)
    names = [n for p in found for n in p.activations]
    collected: dict[str, _Collector] = {n: _Collector() for n in names}
    reader = Readout(floats, names)
    for sample in chosen:
        for name, array in reader.run(sample).items():
            collected[name].add(array)
    rows = []
    for points in found:
        for name in points.weights:
            weight = graph.constant(values[name])
            if weight is not None:
                collector = _Collector(_axis(values[name], 0))
                collector.add(weight)
                rows.append(collector.result(points.node, name, "weight", _threshold(values[name])))
        rows += [collected[n].result(points.node, n, "activation", _threshold(values[n])) for n in points.activations]
    return tuple(rows)


def _values(model: ir.Model) -> dict[str, ir.Value]:
    made = (v for n in model.graph for v in n.outputs)
    return {v.name: v for v in (*model.graph.inputs, *model.graph.initializers.values(), *made) if v.name}


def _axis(value: ir.Value, default: int) -> int:
    q = meta.qparams(value)
    return default if q is None or q.axis is None else q.axis


def _threshold(value: ir.Value) -> float | None:
    q = meta.qparams(value)
    return None if q is None else float(max(q.scales) * q.type.max)


class _Collector:
    """Exact extremes, and an even selection of the elements."""

    def __init__(self, channel_axis: int = 1) -> None:
        self._axis = channel_axis
        self._rows: list[FloatArray] = []
        self._low: FloatArray | None = None
        self._high: FloatArray | None = None

    def add(self, array: NDArray[np.generic]) -> None:
        """Take in one sample's tensor."""
        x = np.asarray(array, np.float64)
        has_channels = x.ndim > self._axis and x.ndim > 1
        rows = np.moveaxis(x, self._axis, 0).reshape(x.shape[self._axis], -1) if has_channels else x.reshape(1, -1)
        if not rows.size:
            return
        low, high = rows.min(axis=1), rows.max(axis=1)
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)
        step = max(1, rows.size // _KEPT_PER_SAMPLE)
        self._rows.append(rows[:, ::step])

    def result(self, node: str, name: str, kind: str, threshold: float | None) -> Distribution:
        """Everything about what was added."""
        if self._low is None or self._high is None:
            return Distribution(node, name, kind, 0.0, 0.0, 0.0, 0.0, threshold, 0.0, (0,) * BINS, None)
        kept = np.concatenate(self._rows, axis=1)
        low, high = float(self._low.min()), float(self._high.max())
        counts, _ = np.histogram(kept, BINS, (low, high) if high > low else (low - 0.5, low + 0.5))
        outside = float(np.mean(np.abs(kept) > threshold * (1 + 1e-6))) if threshold and kind == "activation" else 0.0
        channels = None
        if len(self._low) > 1:
            quartiles = np.quantile(kept, (0.25, 0.5, 0.75), axis=1)
            channels = np.stack([self._low, *quartiles, self._high], axis=1)
        return Distribution(
            node, name, kind, low, high, float(kept.mean()), float(kept.var()), threshold, outside,
            tuple(int(c) for c in counts), channels,
        )  # fmt: skip
