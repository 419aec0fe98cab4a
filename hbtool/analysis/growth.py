"""How the error grows along a partly quantized model: every value held against the float model's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from hbtool.analysis.metrics import Measures, mean, measure
from hbtool.analysis.readout import Readout, limited
from hbtool.analysis.subject import NodePoints, Points, Subject, float_form, partly_quantized
from hbtool.errors import DataError
from hbtool.ir import graph

Part = Literal["all", "weights", "activations"]


@dataclass(frozen=True)
class GrowthRow:
    """One value behind one node.

    Attributes:
        node: the node that writes it.
        op_type: its operator.
        value: the value's name.
        measures: against the float model, mean over the samples.
    """

    node: str
    op_type: str
    value: str
    measures: Measures


def growth(
    subject: Subject,
    *,
    quantize: Collection[str] = (),
    leave_float: Collection[str] = (),
    part: Part = "all",
    samples: int = 1,
) -> tuple[GrowthRow, ...]:
    """Rows in graph order, upstream errors included.

    Args:
        subject: the model.
        quantize: only these nodes are rounded; all if empty.
        leave_float: these nodes are not rounded.
        part: round weights, activations or both.
        samples: how many samples are averaged.

    Raises:
        DataError: no samples. UsageError: an unknown node.
    """
    chosen = limited(subject.samples, samples)
    if not chosen:
        raise DataError("there are no samples to measure with")
    points = Points(subject.ranged)
    left = {p.node for p in points.find(leave_float)} if leave_float else set()
    active = {n for p in points.find(quantize) if p.node not in left for n in _names(p, part)}
    writers = _values(subject)
    floats = Readout(float_form(subject.ranged), writers)
    rounded = Readout(partly_quantized(subject.ranged, points, active), writers, optimize=False)
    collected: dict[str, list[Measures]] = {name: [] for name in writers}
    for sample in chosen:
        expected, found = floats.run(sample), rounded.run(sample)
        for name, measures in collected.items():
            measures.append(measure(expected[name], found[name]))
    return tuple(GrowthRow(*writers[name], name, mean(m)) for name, m in collected.items())


def _names(points: NodePoints, part: Part) -> Sequence[str]:
    if part == "weights":
        return points.weights
    return points.activations if part == "activations" else [*points.weights, *points.activations]


def _values(subject: Subject) -> dict[str, tuple[str, str]]:
    """Float values of the graph -> (node, operator)."""
    found = {}
    for node in subject.ranged.graph:
        for value in node.outputs:
            if value.name and graph.is_float(value) and graph.known_shape(value) is not None:
                found[value.name] = (graph.node_name(node), node.op_type)
    return found
