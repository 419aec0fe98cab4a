"""One form for the mean over an image: GlobalAveragePool.

Before: ReduceMean over H and W of NCHW; AveragePool whose kernel is the whole image
After: GlobalAveragePool (and a Reshape where the axes were dropped)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import axes_of, insert, is_standard, take_place


def unify_pooling(model: ir.Model) -> bool:
    """Rewrite everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        shape = graph.known_shape(source) if source is not None else None
        if source is None or shape is None or len(shape) != 4 or not _is_mean_of_image(node, shape):
            continue
        name, out = graph.node_name(node), graph.known_shape(node.outputs[0])
        pooled = (*shape[:2], 1, 1)
        node.name = f"{name}_replaced"
        value = insert(node, "GlobalAveragePool", [source], pooled, name=name)
        if out is not None and out != pooled:
            target = new_constant(model, f"{name}_shape", np.asarray(out, np.int64))
            value = insert(node, "Reshape", [value, target], out, name=f"{name}_reshape")
        take_place(model, node.outputs[0], value)
        changed = True
    return changed


def _is_mean_of_image(node: ir.Node, shape: tuple[int, ...]) -> bool:
    if is_standard(node, "ReduceMean"):
        return axes_of(node, 4) == (2, 3)
    if not is_standard(node, "AveragePool") or graph.attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return False
    whole = tuple(graph.attribute(node, "kernel_shape")) == shape[2:]
    return (
        whole
        and not any(graph.attribute(node, "pads", ()))
        and graph.known_shape(node.outputs[0])
        == (
            *shape[:2],
            1,
            1,
        )
    )
