"""Similarity per layer between two stages of one model: original, optimized, calibrated, quantized, artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hbtool.analysis.metrics import Measures, measure
from hbtool.analysis.readout import Arrays, Readout
from hbtool.calibration.instrument import Sample
from hbtool.calibration.scorer import as_graph_input
from hbtool.ir import graph, meta
from hbtool.numerics import qtype
from hbtool.runtime.probe import probe
from hbtool.runtime.reference import RunSegment, run_reference

STAGES = ("original", "optimized", "calibrated", "quantized", "artifact")
ReadStage = Callable[[Sample], Arrays]
"""A sample as the float graph takes it -> values as real numbers, by the name the float graph gives them."""


@dataclass(frozen=True)
class LayerRow:
    """One value that both stages have.

    Attributes:
        value: its name.
        node: the node that writes it in the first stage.
        op_type: its operator.
        measures: the second stage against the first; worst sample by cosine.
    """

    value: str
    node: str
    op_type: str
    measures: Measures


def read_float(model: ir.Model) -> ReadStage:
    """Values of a graph of float operators (original, optimized, calibrated)."""
    names = [
        v.name
        for n in model.graph
        if n.op_type not in ("QuantizeLinear", "DequantizeLinear")
        for v in n.outputs
        if v.name and graph.is_float(v)
    ]
    names += [v.name for v in model.graph.outputs if v.name and v.name not in names and graph.is_float(v)]
    return Readout(model, names, optimize=False).run


def read_integer(model: ir.Model) -> ReadStage:
    """Values of an INTEGER graph, computed by onnxruntime."""
    return lambda sample: probe(model, _feeds(model, sample))


def read_program(model: ir.Model, run_bpu: RunSegment) -> ReadStage:
    """Values at the borders of the segments, the BPU's computed by the simulator."""

    def read(sample: Sample) -> Arrays:
        results = run_reference(model, _feeds(model, sample), keep=True, run_bpu=run_bpu)
        values = {graph.value_name(v): v for n in model.graph for v in n.outputs}
        found: Arrays = {}
        for name, array in results.items():
            value = values.get(name)
            if value is None:
                continue
            q, stands_for = meta.qparams(value), meta.float_value(value)
            if q is None:
                found[stands_for or name] = array
            elif stands_for is not None:
                found[stands_for] = qtype.dequantize(array, q)
        return found

    return read


def _feeds(model: ir.Model, sample: Sample) -> dict[str, np.ndarray]:
    return {
        graph.value_name(v): as_graph_input(
            sample[graph.value_name(v)], np.int8 if v.dtype == ir.DataType.INT8 else None
        )
        for v in model.graph.inputs
    }


def compare_stages(
    order: Mapping[str, tuple[str, str]], first: ReadStage, second: ReadStage, samples: list[Sample]
) -> tuple[LayerRow, ...]:
    """Rows in the order of the graph.

    Args:
        order: value -> (node, operator), in graph order.
        first: the reference stage.
        second: the other.
        samples: what both are run on.
    """
    found: dict[str, Measures] = {}
    for sample in samples:
        expected, got = first(sample), second(sample)
        for name in order:
            if name not in expected or name not in got or expected[name].size != got[name].size:
                continue
            measures = measure(expected[name], got[name])
            if name not in found or measures.cosine < found[name].cosine:
                found[name] = measures
    return tuple(LayerRow(name, *order[name], measures) for name, measures in found.items())


def graph_order(model: ir.Model) -> dict[str, tuple[str, str]]:
    """Value -> (node that writes it, its operator)."""
    return {v.name: (graph.node_name(n), n.op_type) for n in model.graph for v in n.outputs if v.name}
