"""A reduction over neighbouring axes becomes one over a single axis, which the BPU has.

Before: x [1, H, W, C] -> ReduceMean(axes 1, 2)
After: x -> Reshape [1, H * W, C] -> ReduceMean(axis 1) (-> Reshape [1, 1, 1, C] where the axes are kept)

Height and width of NCHW stay together: the BPU takes those.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import axes_of, insert, is_standard, take_place

_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")


def merge_reduced_axes(model: ir.Model) -> bool:
    """Rewrite everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        shape = graph.known_shape(source) if source is not None else None
        if source is None or shape is None or not is_standard(node, *_REDUCTIONS) or not graph.is_float(source):
            continue
        axes = axes_of(node, len(shape))
        if axes is None or len(axes) < 2 or axes != tuple(range(axes[0], axes[-1] + 1)):
            continue
        if (len(shape) == 4 and axes == (2, 3)) or len(axes) == len(shape):
            continue
        _rewrite(model, node, source, shape, axes)
        changed = True
    return changed


def _rewrite(model: ir.Model, node: ir.Node, source: ir.Value, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    name, op_type, first = graph.node_name(node), node.op_type, axes[0]
    before, after = shape[:first], shape[axes[-1] + 1 :]
    keep = bool(graph.attribute(node, "keepdims", 1))
    merged = (*before, graph.elements([shape[a] for a in axes]), *after)
    node.name = f"{name}_replaced"

    def reshape(value: ir.Value, sizes: tuple[int, ...], label: str) -> ir.Value:
        target = new_constant(model, f"{name}_{label}_shape", np.asarray(sizes, np.int64))
        return insert(node, "Reshape", [value, target], sizes, name=f"{name}_{label}")

    operands = [reshape(source, merged, "merge"), new_constant(model, f"{name}_axis", np.asarray([first], np.int64))]
    value = insert(node, op_type, operands, (*before, *after), {"keepdims": 0}, name)
    if keep:
        value = reshape(value, (*before, *(1 for _ in axes), *after), "restore")
    take_place(model, node.outputs[0], value)
