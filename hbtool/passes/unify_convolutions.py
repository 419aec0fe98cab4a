"""A transposed convolution that does not spread its input is a convolution.

Before: ConvTranspose of stride 1 with constant weights
After: Conv with the taps in reverse order and the complementary pads
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import insert, is_standard, take_place


def unify_convolutions(model: ir.Model) -> bool:
    """Rewrite everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if is_standard(node, "ConvTranspose"):
            changed |= _as_conv(model, node)
    return changed


def _as_conv(model: ir.Model, node: ir.Node) -> bool:
    x, weight_value = node.inputs[0], node.inputs[1]
    weight = graph.constant(weight_value)
    if (
        x is None
        or weight_value is None
        or weight is None
        or any(s != 1 for s in graph.attribute(node, "strides") or ())
    ):
        return False
    if graph.attribute(node, "auto_pad", "NOTSET") != "NOTSET" or graph.attribute(node, "output_shape") is not None:
        return False
    kernel = weight.shape[2:]
    rank, group = len(kernel), graph.attribute(node, "group", 1)
    dilations = graph.attribute(node, "dilations") or (1,) * rank
    own = graph.attribute(node, "pads") or (0,) * 2 * rank
    extra = (0,) * rank, graph.attribute(node, "output_padding") or (0,) * rank
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    pads = [reach[i] - own[i + side * rank] + extra[side][i] for side in (0, 1) for i in range(rank)]
    if min(pads) < 0:
        return False
    grouped = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:]).swapaxes(1, 2)
    flipped = np.flip(grouped, axis=tuple(range(3, grouped.ndim)))
    turned = np.ascontiguousarray(flipped.reshape(-1, weight.shape[0] // group, *kernel))
    name = graph.node_name(node)
    node.name = f"{name}_replaced"
    attributes = {"kernel_shape": kernel, "pads": pads, "dilations": dilations, "group": group}
    operands = [x, new_constant(model, f"{weight_value.name}_turned", turned), *node.inputs[2:]]
    out = insert(node, "Conv", operands, graph.static_shape(node.outputs[0]), attributes, name)
    take_place(model, node.outputs[0], out)
    return True
