"""Ranges that make the least error where their values are read.

The squared error of a value itself says little: a peak that one reader needs is noise to another, a convolution may
take the differences of its inputs and so drop most of what makes them large, and a LeakyRelu hardly looks at one side.
So the error is measured one node further on: every reader of a value runs once more on the quantized value, all its
other inputs as they are, and its result is compared with the float one. Operators that keep the integers of their input
pass it on to their own readers.

All values are tried at once, one share of their range per run of the model, because no trial sees another: a few
samples and some twenty runs of each settle every range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from hbtool.calibration.instrument import Instrument, Sample, Samples, float_feeds, float_values, run, spread
from hbtool.ir import graph, meta
from hbtool.numerics.qtype import INT8, QParams
from hbtool.numerics.ranges import Range, to_qparams
from hbtool.ops.op import SameAs, float_op

FloatArray = NDArray[np.float64]

SAMPLES = 8
"""Samples that are tried; every reader's result has many elements, so few suffice."""
SHARES = tuple(2.0 ** (-step / 4) for step in range(11))
"""Shares of the range that are tried, 1 down to 0.18."""
_NEXT = 2.0 ** (-1 / 8)
_SIDE_SHARES = (1.0, _NEXT, _NEXT**2, _NEXT**4, _NEXT**7, _NEXT**11, _NEXT**16)
"""Further shares of one end while the other one stays."""
_WORTH = 0.99
"""A smaller range must bring the error below this part of the larger one's."""


def least_reader_error(
    model: ir.Model, largest: Mapping[str, Range], samples: Samples, asymmetric: bool, keep: frozenset[str]
) -> dict[str, Range]:
    """The part of each range that serves the value's readers best.

    Args:
        model: float graph with placements and marked clamps.
        largest: smallest and largest element per value; per tensor.
        samples: calibration samples, of which `SAMPLES` are used.
        asymmetric: choose both ends, for zero points; otherwise [-t, t].
        keep: values whose range stays (int16 has steps enough).

    Raises:
        ModelError: the model cannot run.
    """
    trials = _Trials(model, [name for name in largest if name not in keep], spread(samples, SAMPLES))
    tried = {name: _Ends.of(largest[name], asymmetric) for name in trials.names}
    best = trials.best(tried, [(share, share) for share in SHARES], asymmetric)
    if asymmetric:
        best = trials.best(best, [(share, 1.0) for share in _SIDE_SHARES], asymmetric)
        best = trials.best(best, [(1.0, share) for share in _SIDE_SHARES], asymmetric)
    return {**largest, **{name: Range((ends.low,), (ends.high,)) for name, ends in best.items()}}


@dataclass(frozen=True)
class _Ends:
    """A range per tensor."""

    low: float
    high: float

    @classmethod
    def of(cls, range_: Range, asymmetric: bool) -> _Ends:
        whole = range_.per_tensor()
        return cls(whole.low[0], whole.high[0]) if asymmetric else cls(-whole.threshold, whole.threshold)

    def scaled(self, low: float, high: float) -> _Ends:
        return _Ends(self.low * low, self.high * high)

    def meaning(self, asymmetric: bool) -> QParams:
        return to_qparams(Range((self.low,), (self.high,)), INT8, asymmetric)


class _Trials:
    """The model with every reader once more, on a value quantized to int8 as the feeds say."""

    def __init__(self, model: ir.Model, names: Sequence[str], samples: Sequence[Sample]) -> None:
        self._samples = samples
        instrument = Instrument(model)
        values = float_values(model)
        self._targets = {name: list(_readings(values[name])) for name in names}
        self.names = [name for name, found in self._targets.items() if found]
        self._scales, scales = instrument.numbers("scales", len(self.names), onnx.TensorProto.FLOAT)
        self._zeros, zeros = instrument.numbers("zero_points", len(self.names), onnx.TensorProto.INT64)
        errors, powers = [], []
        for name, scale, zero in zip(self.names, scales, zeros, strict=True):
            quantized = instrument.quantized(name, scale, zero)
            for reading in self._targets[name]:
                errors.append(reading.squared_error(instrument, name, quantized))
                powers.append(instrument.reduce("ReduceSumSquare", reading.output, None))
        self._outputs = [instrument.output(instrument.joined(part)) for part in (errors, powers)]
        self._session = instrument.session()
        self._inputs = [i.name for i in self._session.get_inputs()]

    def best(
        self, ends: Mapping[str, _Ends], shares: Sequence[tuple[float, float]], asymmetric: bool
    ) -> dict[str, _Ends]:
        """Per value the range of least error; `shares` are of the low and the high end, the first ones are (1, 1)."""
        tried = [{name: ends[name].scaled(*share) for name in self.names} for share in shares]
        errors = self._errors([[t[name].meaning(asymmetric) for name in self.names] for t in tried])
        chosen = np.zeros(len(self.names), int)
        for index in range(1, len(shares)):
            better = errors[index] < _WORTH * errors[chosen, np.arange(len(self.names))]
            chosen[better] = index
        return {name: tried[chosen[i]][name] for i, name in enumerate(self.names)}

    def _errors(self, meanings: Sequence[Sequence[QParams]]) -> FloatArray:
        """Relative squared error `[trials, values]`, summed over the readers of each value."""
        if not self.names:
            return np.zeros((len(meanings), 0))
        totals = np.zeros((2, len(meanings), sum(len(self._targets[name]) for name in self.names)))
        for number, sample in enumerate(self._samples):
            for index, trial in enumerate(meanings):
                feeds: dict[str, Any] = float_feeds(sample, self._inputs)
                feeds[self._scales] = np.array([q.scale for q in trial], np.float32)
                feeds[self._zeros] = np.array([q.zero_point for q in trial], np.int64)
                totals[:, index] += run(self._session, self._outputs, feeds, f"calibration sample {number}")
        relative = totals[0] / np.where(totals[1] > 0, totals[1], np.inf)
        starts = np.cumsum([0, *(len(self._targets[name]) for name in self.names)])[:-1]
        return np.asarray(np.add.reduceat(relative, starts, axis=1))


@dataclass(frozen=True)
class _Reading:
    """A way from a value to where its error is measured.

    Attributes:
        nodes: what runs once more, in order; empty where the value itself leaves the model.
        output: the value that is compared.
    """

    nodes: tuple[ir.Node, ...]
    output: str

    def squared_error(self, instrument: Instrument, value: str, quantized: str) -> str:
        """Add the nodes again behind `quantized`; returns the name of the summed squared error."""
        renamed = {value: quantized}
        for node in self.nodes:
            renamed.update(instrument.again(graph.node_name(node), renamed))
        difference = instrument.difference(renamed[self.output], self.output)
        return instrument.reduce("ReduceSumSquare", difference, None)


def _readings(value: ir.Value, before: tuple[ir.Node, ...] = ()) -> Iterator[_Reading]:
    """Where the error of a value shows: results of its readers, through operators that only move it."""
    if value.is_graph_output():
        yield _Reading(before, graph.value_name(value))
    for node in dict.fromkeys(graph.consumers(value)):
        if _holds_graphs(node):
            continue
        op = float_op(node)
        known = op is not None and not op.unifies_inputs and meta.on_bpu(node)
        for index, output in enumerate(node.outputs):
            if not output.name or output.dtype not in (None, ir.DataType.FLOAT):
                continue
            if known and op is not None and isinstance(op.output_rule(node, index), SameAs):
                yield from _readings(output, (*before, node))
            else:
                yield _measured(output, (*before, node))


def _measured(output: ir.Value, nodes: tuple[ir.Node, ...]) -> _Reading:
    """The reading at a node's result, behind the clamp that the node absorbs."""
    after = graph.sole_consumer(output)
    if after is not None and meta.fused_into(after) == graph.node_name(nodes[-1]):
        return _Reading((*nodes, after), graph.value_name(after.outputs[0]))
    return _Reading(nodes, graph.value_name(output))


def _holds_graphs(node: ir.Node) -> bool:
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
