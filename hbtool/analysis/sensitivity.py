"""Which nodes cost the accuracy: round only one of them, or all but one, and look at the model's outputs.

Only the part of the graph behind a node is computed again; what lies before it is read once per sample from a run of
the unchanged model. A network of fifty layers then takes seconds, not minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hbtool.analysis.metrics import Measures, badness, mean, measure, worst
from hbtool.analysis.readout import Arrays, Readout, limited
from hbtool.analysis.subject import NodePoints, Points, Subject, float_form, float_outputs, partly_quantized
from hbtool.calibration.instrument import Sample
from hbtool.errors import DataError, UsageError
from hbtool.ir import graph, meta
from hbtool.ir.onnx_session import make_session

Kind = Literal["node", "weight", "activation"]
Mode = Literal["only", "except"]
SAMPLES = 16
_TOGETHER = 24
"""Sessions held at once."""


@dataclass(frozen=True)
class SensitivityRow:
    """What one node costs.

    Attributes:
        node: its name.
        op_type: its operator.
        kind: whether its weights, its activations or both are meant.
        values: the values and weights that were rounded (or left alone).
        threshold: largest magnitude that the rounded values can hold, None for weights alone.
        measures: the model's outputs against the float model's; worst output, mean over the samples.
    """

    node: str
    op_type: str
    kind: Kind
    values: tuple[str, ...]
    threshold: float | None
    measures: Measures


@dataclass(frozen=True)
class SensitivityRequest:
    """What is asked.

    Attributes:
        metric: what the rows are sorted by.
        kind: node, weight or activation.
        mode: `only`: round nothing but the node; `except`: round everything but the node.
        nodes: which nodes, all if empty.
        outputs: values that are compared, the model's outputs if empty.
        samples: how many samples.
    """

    metric: str = "cosine"
    kind: Kind = "node"
    mode: Mode = "only"
    nodes: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    samples: int = SAMPLES


def sensitivity(
    subject: Subject, request: SensitivityRequest, progress: Callable[[int], None] | None = None
) -> tuple[SensitivityRow, ...]:
    """The rows; with `only` the worst first, with `except` the node first whose absence helps most.

    Raises:
        DataError: no samples. UsageError: an unknown node or output.
    """
    samples = limited(subject.samples, request.samples)
    if not samples:
        raise DataError("there are no samples to measure with")
    points = Points(subject.ranged)
    wanted = points.find(request.nodes)
    rows = [(p, chosen) for p in wanted if (chosen := _chosen(p, request.kind))]
    measurer = _Measurer(subject.ranged, points, request, samples)
    found: list[SensitivityRow] = []
    for start in range(0, len(rows), _TOGETHER):
        group = rows[start : start + _TOGETHER]
        for (p, chosen), measures in zip(group, measurer.run(group), strict=True):
            threshold = _threshold(subject.ranged, p.activations) if request.kind != "weight" else None
            found.append(SensitivityRow(p.node, p.op_type, request.kind, tuple(chosen), threshold, measures))
        if progress is not None:
            progress(len(found))
    sign = -1.0 if request.mode == "only" else 1.0
    return tuple(sorted(found, key=lambda r: sign * badness(r.measures, request.metric)))


def _chosen(points: NodePoints, kind: Kind) -> list[str]:
    if kind == "weight":
        return points.weights
    return points.activations if kind == "activation" else [*points.weights, *points.activations]


def _threshold(ranged: ir.Model, names: Collection[str]) -> float | None:
    values = {graph.value_name(v): v for v in (*ranged.graph.inputs, *(o for n in ranged.graph for o in n.outputs))}
    meanings = [q for n in names if (q := meta.qparams(values[n])) is not None]
    return max((float(max(q.scales) * q.type.max) for q in meanings), default=None)


class _Measurer:
    """Runs groups of variants that differ from one base model in one node."""

    def __init__(
        self, ranged: ir.Model, points: Points, request: SensitivityRequest, samples: Sequence[Sample]
    ) -> None:
        self.ranged, self.points, self.mode, self.samples = ranged, points, request.mode, samples
        known = {v.name for n in ranged.graph for v in n.outputs}
        if unknown := [o for o in request.outputs if o not in known]:
            raise UsageError(f"the model has no value {unknown[0]!r}", hint="Name an output of a node.")
        self.outputs = list(request.outputs) or float_outputs(ranged)
        floats = float_form(ranged)
        self.everything = {n for p in points.nodes.values() for n in (*p.weights, *p.activations)}
        self.base = floats if self.mode == "only" else partly_quantized(ranged, points, self.everything)
        reader = Readout(floats, self.outputs)
        self.expected = [reader.run(s) for s in samples]
        quantized = self.expected if self.mode == "only" else None
        self.unchanged = quantized or [Readout(self.base, self.outputs, optimize=False).run(s) for s in samples]

    def run(self, group: Sequence[tuple[NodePoints, Sequence[str]]]) -> Iterator[Measures]:
        variants = [self._variant(p, set(chosen)) for p, chosen in group]
        frontier = list(dict.fromkeys(n for v in variants for n in v.inputs))
        reader = Readout(self.base, frontier, optimize=self.mode == "only")
        collected: list[list[Measures]] = [[] for _ in variants]
        for number, sample in enumerate(self.samples):
            inner = {**{k: np.asarray(a) for k, a in sample.items()}, **reader.run(sample)}
            for variant, measures in zip(variants, collected, strict=True):
                results = {**self.unchanged[number], **variant.run(inner)}
                measures.append(self._compare(self.expected[number], results))
        return iter([mean(m) for m in collected])

    def _compare(self, expected: Arrays, results: Arrays) -> Measures:
        return worst([measure(expected[n], results[n]) for n in self.outputs])

    def _variant(self, points: NodePoints, chosen: set[str]) -> _Variant:
        active = chosen if self.mode == "only" else self.everything - chosen
        model = partly_quantized(self.ranged, self.points, active)
        return _Variant(model, points, self.outputs)


class _Variant:
    """The part of a model that lies behind one node."""

    def __init__(self, model: ir.Model, points: NodePoints, outputs: Sequence[str]) -> None:
        behind = _behind(model, points)
        made = {v.name: v for n in behind for v in n.outputs if v.name}
        wanted = [made[o] for o in outputs if o in made]
        fed: dict[str, ir.Value] = {}
        for node in behind:
            for value in node.inputs:
                if value is not None and _varies(value) and value.name not in made:
                    fed.setdefault(graph.value_name(value), value)
        self.outputs = [graph.value_name(v) for v in wanted]
        self._session = None
        if wanted:
            part = ir.Model(
                ir.convenience.extract(model.graph, list(fed.values()), wanted), ir_version=model.ir_version
            )
            part.opset_imports.update(model.opset_imports)
            for identifier, function in model.functions.items():
                part.functions[identifier] = function
            self._session = make_session(part)
        self.inputs = [i.name for i in self._session.get_inputs()] if self._session is not None else []

    def run(self, values: Arrays) -> dict[str, NDArray[np.generic]]:
        """The outputs behind the node."""
        if self._session is None:
            return {}
        results = self._session.run(self.outputs, {n: values[n] for n in self.inputs})
        return dict(zip(self.outputs, results, strict=True))


def _varies(value: ir.Value) -> bool:
    """Whether the value depends on the sample: it is no constant and no dequantized constant."""
    producer = value.producer()
    if producer is None:
        return graph.constant(value) is None
    return producer.op_type != "DequantizeLinear" or graph.constant(producer.inputs[0]) is None


def _behind(model: ir.Model, points: NodePoints) -> list[ir.Node]:
    """The node, whoever reads what it owns, and everything after them, in graph order."""
    owned = set(points.activations)
    reached: set[ir.Node] = set()
    tainted: set[ir.Value] = {v for v in model.graph.inputs if v.name in owned}
    for node in model.graph:
        mine = graph.node_name(node) == points.node
        if mine or any(v in tainted for v in node.inputs if v is not None):
            reached.add(node)
            tainted.update(node.outputs)
        else:
            tainted.update(v for v in node.outputs if v.name in owned)
    return [n for n in model.graph if n in reached]
