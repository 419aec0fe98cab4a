"""Marks clamps (Relu, Relu6, Clip) that cost nothing inside the BPU node before them.

Before: Conv -> Relu, each with a placement on the BPU.
After: the Relu is marked `fused_into` the Conv; the value between them needs no range.
"""

from __future__ import annotations

import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.ops.op import float_op


def fuse_clamps(model: ir.Model) -> None:
    """Mark every clamp that its producer absorbs (placements must be written before)."""
    for node in model.graph:
        meta.set_fused_into(node, None)
        op = float_op(node)
        if not meta.on_bpu(node) or op is None or op.clamp(node) is None:
            continue
        source = node.inputs[0]
        producer = source.producer() if source is not None else None
        if source is None or producer is None or not meta.on_bpu(producer):
            continue
        before = float_op(producer)
        if before is None or not before.absorbs_clamp or len(producer.outputs) != 1:
            continue
        if graph.sole_consumer(source) is node and meta.qparams(source) is None:
            meta.set_fused_into(node, graph.node_name(producer))
