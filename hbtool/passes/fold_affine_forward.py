"""Folds a BatchNormalization into the convolution behind it, where no padding lets zeros in between.

Before: x -> BatchNormalization -> Conv(no pads); x -> BatchNormalization -> Gemm
After: x -> Conv with other weights; it keeps its name.

w (a x + c) + b = (w a) x + (w c + b); at a padded border the zeros would have to become -c / a.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import is_standard, producer_of, remove_unused


def fold_affine_forward(model: ir.Model) -> bool:
    """Fold everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if not is_standard(node, "Conv", "Gemm"):
            continue
        before = producer_of(node.inputs[0], "BatchNormalization")
        if before is None or len(before.outputs) != 1 or graph.sole_consumer(before.outputs[0]) is not node:
            continue
        if _is_plain(node) and _fold(model, node, before):
            changed = True
    return changed


def _is_plain(node: ir.Node) -> bool:
    if node.op_type == "Gemm":
        factors = graph.attribute(node, "alpha", 1.0), graph.attribute(node, "beta", 1.0)
        return factors == (1.0, 1.0) and not graph.attribute(node, "transA", 0)
    return not any(graph.attribute(node, "pads", ())) and graph.attribute(node, "auto_pad", "NOTSET") in (
        "NOTSET",
        "VALID",
    )


def _fold(model: ir.Model, node: ir.Node, before: ir.Node) -> bool:
    weight, bias = graph.constant(node.inputs[1]), graph.constant(graph.input_at(node, 2))
    statistics = [graph.constant(v) for v in before.inputs[1:]]
    if weight is None or any(a is None for a in statistics) or (graph.input_at(node, 2) is not None and bias is None):
        return False
    gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in statistics)
    scale = gamma / np.sqrt(variance + graph.attribute(before, "epsilon", 1e-5))
    shift = beta - mean * scale
    wide = weight.astype(np.float64)
    if node.op_type == "Gemm":
        rows_first = wide if graph.attribute(node, "transB", 0) else wide.T
        folded, extra = rows_first * scale, rows_first @ shift
        folded = folded if graph.attribute(node, "transB", 0) else folded.T
    else:
        groups, outputs = graph.attribute(node, "group", 1), weight.shape[0]
        per_group = np.repeat(np.arange(groups), outputs // groups)[:, None] * weight.shape[1]
        index = per_group + np.arange(weight.shape[1])[None, :]
        spread = (slice(None), slice(None), *(None,) * (weight.ndim - 2))
        folded = wide * scale[index][spread]
        extra = (wide * shift[index][spread]).sum(axis=tuple(range(1, weight.ndim)))
    total = extra if bias is None else extra + bias.astype(np.float64)
    name, value = graph.node_name(node), node.inputs[1]
    assert value is not None
    node.resize_inputs(3)
    node.replace_input_with(1, new_constant(model, f"{value.name}_scaled", folded.astype(np.float32)))
    node.replace_input_with(2, new_constant(model, f"{name}_shifted_bias", total.astype(np.float32)))
    node.replace_input_with(0, before.inputs[0])
    remove_unused(model, before)
    return True
