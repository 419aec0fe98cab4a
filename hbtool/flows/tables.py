"""The node table and the output table: what became of every node, and how near integers come to the float model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hbtool.calibration.capture import capture
from hbtool.calibration.instrument import Sample
from hbtool.calibration.scorer import as_graph_input
from hbtool.calibration.similarity import Similarity, similarity
from hbtool.compiler.segments import Segment
from hbtool.ir import graph, meta
from hbtool.numerics.qtype import INT32
from hbtool.ops.op import integer_op, is_integer
from hbtool.runtime.probe import probe


@dataclass(frozen=True)
class NodeRow:
    """One row of the node table.

    Attributes:
        node: node name.
        device: BPU or CPU.
        subgraph: `id(N)` on the BPU, `--` on the CPU.
        type: operator, as the INTEGER graph names it.
        cosine: cosine similarity of its output to the float model, upstream error included; None where the node was
            inserted and stands for no float value.
        threshold: calibration threshold of its first input, None on the CPU and for int32, which has none.
        dtype: int8, int16 or float: what it computes on.
        reason: why it is on that device.
    """

    node: str
    device: str
    subgraph: str
    type: str
    cosine: float | None
    threshold: float | None
    dtype: str
    reason: str


@dataclass(frozen=True)
class OutputRow:
    """One row of the output table."""

    name: str
    similarity: Similarity


def node_table(segments: Sequence[Segment], cosines: Mapping[str, float] | None = None) -> tuple[NodeRow, ...]:
    """The rows in execution order; Quantize and Dequantize at the borders are part of the segments' edges, not rows."""
    rows = []
    for segment in segments:
        for node in segment.nodes:
            if segment.device == "BPU" or not is_integer(node):
                rows.append(_row(node, segment, cosines or {}))
    return tuple(rows)


def _row(node: ir.Node, segment: Segment, cosines: Mapping[str, float]) -> NodeRow:
    place = meta.placement(node)
    named = [meta.float_value(v) or graph.value_name(v) for v in node.outputs]
    found = [cosines[name] for name in named if name in cosines]
    on_bpu = segment.device == "BPU"
    first = node.inputs[0] if node.inputs else None
    q = meta.qparams(first) if first is not None and on_bpu else None
    stands_for_float = any(meta.float_value(v) for v in node.outputs) or not on_bpu
    return NodeRow(
        graph.node_name(node),
        segment.device,
        f"id({segment.index})" if on_bpu else "--",
        node.op_type,
        min(found) if found and stands_for_float else None,
        float(max(q.scales) * q.type.max) if q is not None and q.type is not INT32 else None,
        q.type.name if q is not None else "float",
        place.reason,
    )


def compare(optimized: ir.Model, integer: ir.Model, sample: Sample) -> tuple[dict[str, float], tuple[OutputRow, ...]]:
    """Cosine similarity of every value both models have, and the output table, on one sample.

    Args:
        optimized: the float graph the INTEGER graph was lowered from.
        integer: the INTEGER graph.
        sample: by input name, as the float graph takes it.
    """
    kinds = {graph.value_name(v): v.dtype for v in integer.graph.inputs}
    feeds = {
        name: as_graph_input(sample[name], np.int8 if kind == ir.DataType.INT8 else None)
        for name, kind in kinds.items()
    }
    quantized = probe(integer, feeds)
    names = [
        graph.value_name(v)
        for node in optimized.graph
        for v in node.outputs
        if v.name and graph.is_float(v) and v.name in quantized and graph.known_shape(v) is not None
    ]
    floats = next(iter(capture(optimized, names, [sample])))
    cosines = {name: similarity(floats[name], quantized[name]).cosine for name in names}
    outputs = [graph.value_name(v) for v in optimized.graph.outputs]
    rows = tuple(OutputRow(n, similarity(floats[n], quantized[n])) for n in outputs if n in floats)
    return cosines, rows


def operator_text(node: ir.Node) -> str:
    """First line of the definition of an integer node's operator."""
    return (integer_op(node).__doc__ or "").splitlines()[0]
