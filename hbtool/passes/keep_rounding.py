"""Nodes that are kept in QAT form: float arithmetic on the CPU, with the roundings that training saw.

Before: RANGED; the nodes are on the CPU, values around them carry `QParams`.
After: where such a value passes between CPU nodes only (or is the model's input or output), a QuantizeLinear ->
DequantizeLinear pair stands on it. Borders to the BPU need none: lowering puts Quantize and Dequantize there.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.passes.to_qdq import QdqWriter

REASON = "kept in QAT form (preserve_qat_mode)"


def keep_rounding(model: ir.Model, paths: Collection[str]) -> None:
    """Put the pairs around the nodes of these torch modules, in place."""
    before = set(model.graph)
    writer = QdqWriter(model)
    kept = [n for n in model.graph if not meta.on_bpu(n) and meta.torch_module(n) in paths]
    for node in kept:
        for index, value in enumerate(node.inputs):
            if value is not None and not _from_bpu(value) and graph.constant(value) is None:
                writer.wrap_input(node, index)
        for value in node.outputs:
            for reader, index in tuple(value.uses()):
                if not meta.on_bpu(reader) and reader in before:
                    writer.wrap_input(reader, index)
            if value.is_graph_output():
                writer.wrap_output(value)
    for node in model.graph:
        if node not in before:
            meta.set_placement(node, meta.Placement("CPU", REASON))
    model.graph.sort()


def _from_bpu(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and meta.on_bpu(producer)
