"""Q/DQ pairs behind operators that only move values, for files that stock onnxruntime loads.

Before: x -> Quantize -> Dequantize -> Reshape -> Gemm
After: x -> Quantize -> Dequantize -> Reshape -> Quantize -> Dequantize -> Gemm (same scale: the values do not change)

onnxruntime inserts such pairs itself when it optimizes, and for int8 at opset 21 with types that do not fit together
(its session then fails to load); where the pair is there already, it leaves the graph alone.
"""

from __future__ import annotations

import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.ops.op import SameAs, float_op


def repeat_qdq(model: ir.Model) -> None:
    """Insert the pairs into a FLOAT graph with Q/DQ, in place."""
    for node in list(model.graph):
        op = float_op(node)
        if op is None or not op.passive or not node.inputs or len(node.outputs) != 1:
            continue
        if not isinstance(op.output_rule(node, 0), SameAs):
            continue
        pair = _pair_before(node)
        value = node.outputs[0]
        if pair is None or value.is_graph_output() or not value.uses():
            continue
        if all(n.op_type == "QuantizeLinear" for n in graph.consumers(value)):
            continue
        _insert(model, node, pair)


def _pair_before(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear that feeds the node, if its scale is one number."""
    source = node.inputs[0]
    producer = source.producer() if source is not None else None
    if producer is None or producer.op_type != "DequantizeLinear" or len(producer.inputs) < 3:
        return None
    scale = graph.constant(producer.inputs[1])
    return producer if scale is not None and scale.ndim == 0 else None


def _insert(model: ir.Model, node: ir.Node, before: ir.Node) -> None:
    value = node.outputs[0]
    users = [(use.node, use.idx) for use in value.uses()]
    scale, zero = before.inputs[1], before.inputs[2]
    assert scale is not None and zero is not None, "a pair has both"
    stem = graph.node_name(node)
    quantize = ir.Node("", "QuantizeLinear", [value, scale, zero], num_outputs=1, name=f"{stem}/Quantize")
    integers = quantize.outputs[0]
    integers.name, integers.shape = f"{value.name}_integers", value.shape
    integers.dtype = zero.dtype or ir.DataType.INT8
    dequantize = ir.Node("", "DequantizeLinear", [integers, scale, zero], num_outputs=1, name=f"{stem}/Dequantize")
    out = dequantize.outputs[0]
    out.name, out.shape, out.dtype = f"{value.name}_dequantized", value.shape, ir.DataType.FLOAT
    path = meta.torch_module(node)
    for made in (quantize, dequantize):
        if path is not None:
            meta.set_torch_module(made, path)
    model.graph.insert_after(node, [quantize, dequantize])
    for user, index in users:
        user.replace_input_with(index, out)
