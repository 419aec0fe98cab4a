"""Transposes that follow each other become one; one that only moves axes of size 1 beside a Reshape becomes another.

Before: x -> Transpose(0, 2, 3, 1) -> Transpose(0, 3, 1, 2) -> y; x [1, 1, 8] -> Transpose(1, 0, 2) -> Reshape
After: x -> y; x -> Reshape -> Reshape (which remove_no_ops joins)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.onnx_builder import attr
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import bypass, insert, is_standard, permutation, producer_of, remove_unused, take_place

_SHAPE_ONLY = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def merge_transposes(model: ir.Model) -> bool:
    """Merge everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if node.graph is None or not is_standard(node, "Transpose") or not permutation(node):
            continue
        changed |= _join(model, node)
        if _keeps_order(node) and not _is_identity(node) and _beside_reshape(node):
            changed |= _as_reshape(model, node)
        elif _is_identity(node) and node.inputs[0] is not None:
            changed |= bypass(model, node.outputs[0], node.inputs[0])
    return changed


def _join(model: ir.Model, node: ir.Node) -> bool:
    """Read the first of two Transposes' input directly."""
    before = producer_of(node.inputs[0], "Transpose")
    if before is None or len(permutation(before)) != len(permutation(node)):
        return False
    first, second = permutation(before), permutation(node)
    node.attributes["perm"] = attr("perm", [first[i] for i in second])
    node.replace_input_with(0, before.inputs[0])
    remove_unused(model, before)
    return True


def _is_identity(node: ir.Node) -> bool:
    perm = permutation(node)
    return perm == tuple(range(len(perm)))


def _keeps_order(node: ir.Node) -> bool:
    """Whether the axes longer than 1 stay in their order."""
    source = node.inputs[0]
    shape = graph.known_shape(source) if source is not None else None
    if shape is None:
        return False
    long = [i for i in permutation(node) if shape[i] != 1]
    return long == sorted(long)


def _beside_reshape(node: ir.Node) -> bool:
    """Whether a Reshape will be joined with another; alone, a Transpose is as cheap and may end the model."""
    user = graph.sole_consumer(node.outputs[0])
    return producer_of(node.inputs[0], *_SHAPE_ONLY) is not None or is_standard(user, *_SHAPE_ONLY)


def _as_reshape(model: ir.Model, node: ir.Node) -> bool:
    name, source = graph.node_name(node), node.inputs[0]
    assert source is not None
    perm, shape = permutation(node), graph.static_shape(source)
    sizes = tuple(shape[i] for i in perm)
    target = new_constant(model, f"{name}_shape", np.asarray(sizes, np.int64))
    node.name = f"{name}_replaced"
    take_place(model, node.outputs[0], insert(node, "Reshape", [source, target], sizes, name=name))
    return True
