"""Picking one entry, or neighbouring ones, along an axis is a Slice: q, k and v out of a joint projection.

Before: Gather(x, 2, axis); Gather(x, [3, 4, 5], axis)
After: Slice(x, 2:3) -> Reshape without the axis; Slice(x, 3:6)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import insert, is_standard, take_place


def gather_to_slice(model: ir.Model) -> bool:
    """Rewrite everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if source is None or not is_standard(node, "Gather") or not graph.is_float(source):
            continue
        changed |= _rewrite(model, node, source)
    return changed


def _rewrite(model: ir.Model, node: ir.Node, source: ir.Value) -> bool:
    indices, shape = graph.constant(node.inputs[1]), graph.known_shape(source)
    if indices is None or shape is None or indices.size == 0 or indices.ndim > 1 or graph.constant(source) is not None:
        return False
    axis = graph.attribute(node, "axis", 0) % len(shape)
    picked = [int(i) % shape[axis] for i in indices.reshape(-1)]
    if picked != list(range(picked[0], picked[0] + len(picked))):
        return False
    name = graph.node_name(node)
    sliced = (*shape[:axis], len(picked), *shape[axis + 1 :])
    ranges = {"starts": picked[0], "ends": picked[-1] + 1, "axes": axis, "steps": 1}
    constants = [new_constant(model, f"{name}_{key}", np.asarray([v], np.int64)) for key, v in ranges.items()]
    node.name = f"{name}_replaced"
    value = insert(node, "Slice", [source, *constants], sliced, name=name)
    if indices.ndim == 0:
        kept = (*shape[:axis], *shape[axis + 1 :])
        target = new_constant(model, f"{name}_shape", np.asarray(kept, np.int64))
        value = insert(node, "Reshape", [value, target], kept, name=f"{name}_reshape")
    take_place(model, node.outputs[0], value)
    return True
