"""Removes nodes that change nothing: Identity, Dropout at inference, Cast to the same type, Reshape to the same shape,
Transpose in order, and pairs of Reshape.

Before: x -> Identity -> y, x -> Reshape -> Reshape -> y
After: x -> y, x -> Reshape -> y
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant

_SHAPE_ONLY = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def remove_no_ops(model: ir.Model) -> bool:
    """Remove everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if source is None or node.domain not in ("", "ai.onnx"):
            continue
        if _changes_nothing(node, source) and _bypass(model, node, source):
            changed = True
        elif node.op_type in _SHAPE_ONLY:
            changed |= _skip_previous_reshape(model, node, source)
    return changed


def _changes_nothing(node: ir.Node, source: ir.Value) -> bool:
    out = node.outputs[0]
    same_shape = graph.known_shape(source) is not None and graph.known_shape(source) == graph.known_shape(out)
    if node.op_type == "Identity":
        return True
    if node.op_type == "Dropout":
        training = graph.constant(graph.input_at(node, 2))
        off = graph.input_at(node, 2) is None or (training is not None and not training.any())
        return off and all(not v.uses() and not v.is_graph_output() for v in node.outputs[1:])
    if node.op_type == "Cast":
        return source.dtype is not None and source.dtype == out.dtype
    if node.op_type == "Transpose":
        perm = graph.attribute(node, "perm")
        return perm is not None and tuple(perm) == tuple(range(len(perm)))
    return node.op_type in (*_SHAPE_ONLY, "Expand", "Tile") and same_shape


def _bypass(model: ir.Model, node: ir.Node, source: ir.Value) -> bool:
    out = node.outputs[0]
    if out.is_graph_output():
        producer = source.producer()
        # The output's name must stay: only a value of our own that is not an output itself can take it over.
        if producer is None or source.is_graph_output() or source.is_graph_input() or producer.graph is not node.graph:
            return False
        name, out.name = out.name, f"{out.name}_before_removal"
        out.replace_all_uses_with(source, replace_graph_outputs=True)
        source.name = name
    else:
        out.replace_all_uses_with(source)
    model.graph.remove(node, safe=True)
    return True


def _skip_previous_reshape(model: ir.Model, node: ir.Node, source: ir.Value) -> bool:
    """Reshape of a reshaped value: from the first value straight to the last shape."""
    before = source.producer()
    shape = graph.known_shape(node.outputs[0])
    if before is None or before.op_type not in _SHAPE_ONLY or before.domain not in ("", "ai.onnx") or shape is None:
        return False
    first = before.inputs[0]
    if first is None or graph.sole_consumer(source) is not node:
        return False
    target = new_constant(model, f"{graph.node_name(node)}_shape", np.asarray(shape, np.int64))
    out = ir.Value(name=node.outputs[0].name, shape=node.outputs[0].shape, type=node.outputs[0].type)
    # The first name stays, as in the vendor's tables.
    joined = ir.Node("", "Reshape", [first, target], outputs=[out], name=before.name)
    joined.metadata_props.update(before.metadata_props)
    node.outputs[0].name = f"{node.outputs[0].name}_before_joining"
    model.graph.insert_before(node, joined)
    node.outputs[0].replace_all_uses_with(out, replace_graph_outputs=True)
    model.graph.remove([node, before], safe=True)
    return True
