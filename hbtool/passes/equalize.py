"""Evens out the channels between two convolutions, so that one wide channel does not take the steps of the others.

Before: Conv(W1, b1) -> [Relu] -> Conv(W2)
After: Conv(W1 / s, b1 / s) -> [Relu] -> Conv(W2 · s), s per channel in between: the same numbers at the end

s_i = sqrt(r1_i / r2_i), r1 and r2 the largest weights that write and read channel i (M. Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1); both ends then have the range
sqrt(r1_i · r2_i). Only channels far from the others are touched, by powers of two: the float results stay what they
were to the last bits, and balanced layers stay untouched.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant

UNEVEN = 4.0
"""A channel is touched where its scale is this many times the median channel's, or the inverse."""
_TINY = 1e-20


def equalize(model: ir.Model) -> tuple[str, ...]:
    """Even out every pair in place; returns the names of the first nodes of the pairs that changed."""
    changed = []
    for node in model.graph:
        second = _partner(node)
        if second is not None and _scale(model, node, second):
            changed.append(graph.node_name(node))
    return tuple(changed)


def _partner(node: ir.Node) -> ir.Node | None:
    """The convolution that alone reads the node's result, a Relu in between allowed."""
    if not _is_conv(node):
        return None
    following = graph.sole_consumer(node.outputs[0])
    if following is not None and following.op_type == "Relu" and following.domain == "":
        following = graph.sole_consumer(following.outputs[0])
    if following is None or not _is_conv(following):
        return None
    one_group = graph.attribute(following, "group", 1) == 1
    depthwise = graph.attribute(following, "group", 1) == _channels(node)
    return following if one_group or depthwise else None


def _is_conv(node: ir.Node) -> bool:
    bias = graph.input_at(node, 2)
    return (
        node.op_type == "Conv"
        and node.domain == ""
        and graph.constant(node.inputs[1]) is not None
        and (bias is None or graph.constant(bias) is not None)
    )


def _channels(node: ir.Node) -> int:
    weight = graph.constant(node.inputs[1])
    assert weight is not None, "checked by _is_conv"
    return int(weight.shape[0])


def _scale(model: ir.Model, first: ir.Node, second: ir.Node) -> bool:
    w1, w2 = graph.constant(first.inputs[1]), graph.constant(second.inputs[1])
    assert w1 is not None and w2 is not None, "checked by _is_conv"
    axis = 1 if graph.attribute(second, "group", 1) == 1 else 0
    r1 = np.abs(w1).max(axis=tuple(range(1, w1.ndim)))
    r2 = np.abs(w2).max(axis=tuple(i for i in range(w2.ndim) if i != axis))
    usable = (r1 > _TINY) & (r2 > _TINY)
    if r1.shape != r2.shape or not usable.any():
        return False
    s = np.ones(r1.shape, np.float64)
    s[usable] = np.sqrt(r1[usable].astype(np.float64) / r2[usable])
    relative = s / np.median(s[usable])
    uneven = usable & ((relative > UNEVEN) | (relative < 1 / UNEVEN))
    if not uneven.any():
        return False
    factors = np.where(uneven, np.exp2(np.rint(np.log2(relative))), 1.0)
    _replace(model, first, 1, w1 / _along(factors, 0, w1.ndim))
    bias = graph.constant(graph.input_at(first, 2))
    if bias is not None:
        _replace(model, first, 2, bias / factors)
    _replace(model, second, 1, w2 * _along(factors, axis, w2.ndim))
    return True


def _along(factors: np.ndarray, axis: int, rank: int) -> np.ndarray:
    shape = [1] * rank
    shape[axis] = factors.size
    return factors.reshape(shape)


def _replace(model: ir.Model, node: ir.Node, index: int, array: np.ndarray) -> None:
    old = node.inputs[index]
    assert old is not None, "a constant input is there"
    node.replace_input_with(index, new_constant(model, f"{old.name}_equalized", array.astype(np.float32)))
    if not old.uses() and not old.is_graph_output():
        del model.graph.initializers[graph.value_name(old)]
