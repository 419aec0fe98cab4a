"""Which nodes of a model with trained ranges belong on the BPU: those the training saw as quantized.

An operator whose result was fake-quantized (itself, or behind the clamp it absorbs) runs on the BPU, also where the
mapper would keep it in float by itself; one that training left float runs on the CPU. A convolution without a range
behind it has the high-precision output, if its weights were quantized.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.ops.op import FloatOp, SameAs, Unquantized, float_op
from hbtool.passes.place import PlacementRequest


def place_trained(model: ir.Model, request: PlacementRequest | None = None) -> PlacementRequest:
    """`request` with what training says added; the user's wishes come first.

    Args:
        model: FLOAT graph after `read_qdq`.
        request: what the user asks for.
    """
    request = request or PlacementRequest()
    on_bpu: list[str] = []
    reasons: dict[str, str] = {}
    for node in model.graph:
        op = float_op(node)
        if op is not None and _was_quantized(node, op):
            on_bpu.append(graph.node_name(node))
        elif op is not None:
            reasons[graph.node_name(node)] = f"training left this {node.op_type} in float (no Q/DQ around it)"
    return replace(
        request,
        run_on_bpu=(*request.run_on_bpu, *on_bpu),
        cpu_reasons={**reasons, **request.cpu_reasons},
        trained=frozenset(on_bpu),
    )


def _was_quantized(node: ir.Node, op: FloatOp) -> bool:
    computed = [node.inputs[i] for i in op.quantized_inputs(node)]
    if op.high_precision and not _quantized_weights(node, op):
        return False
    if not computed or not all(v is not None and _has_meaning(v) for v in computed):
        return op.clamp(node) is not None and _has_range(node.outputs[0]) and _behind_quantized(node)
    rule = op.output_rule(node, 0)
    if isinstance(rule, SameAs | Unquantized) and not op.unifies_inputs:
        return True
    if _has_range(node.outputs[0]):
        return True
    user = graph.sole_consumer(node.outputs[0])
    clamp = float_op(user) if user is not None else None
    if user is not None and clamp is not None and clamp.clamp(user) is not None and _has_range(user.outputs[0]):
        return True
    return op.high_precision


def _behind_quantized(clamp: ir.Node) -> bool:
    """Whether the producer that absorbs the clamp was quantized: the value between them has no meaning of its own."""
    source = clamp.inputs[0]
    producer = source.producer() if source is not None else None
    before = float_op(producer) if producer is not None else None
    return producer is not None and before is not None and before.absorbs_clamp and _was_quantized(producer, before)


def _has_range(value: ir.Value) -> bool:
    return meta.qparams(value) is not None


def _has_meaning(value: ir.Value) -> bool:
    """Whether the value is quantized: by a range of its own or through operators that pass integers on."""
    if _has_range(value):
        return True
    producer = value.producer()
    op = float_op(producer) if producer is not None else None
    if producer is None or op is None or not isinstance(op.output_rule(producer, 0), SameAs):
        return False
    source = producer.inputs[0]
    return source is not None and _has_meaning(source)


def _quantized_weights(node: ir.Node, op: FloatOp) -> bool:
    weights = [node.inputs[i] for i in op.weight_axes(node)]
    return all(_has_range(v) for v in weights if v is not None and graph.constant(v) is not None)
