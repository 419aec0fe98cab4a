"""3-D max pooling of images becomes 2-D pooling and a strided Slice of channels (license plate networks).

Before: x [N, C, H, W] -> Unsqueeze(1) -> MaxPool(kernel (1, h, w), strides (c, sh, sw)) -> Squeeze(1)
After: x -> MaxPool(kernel (h, w), strides (sh, sw)) -> Slice of every c-th channel
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import insert, is_standard, producer_of, take_place

_SHAPE_ONLY = ("Unsqueeze", "Squeeze", "Reshape")


def pool_to_2d(model: ir.Model) -> bool:
    """Rewrite everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if node.graph is not None and is_standard(node, "MaxPool") and len(node.outputs) == 1:
            changed |= _rewrite(model, node)
    return changed


def _rewrite(model: ir.Model, node: ir.Node) -> bool:
    before = producer_of(node.inputs[0], *_SHAPE_ONLY)
    after = graph.sole_consumer(node.outputs[0])
    if before is None or after is None or not is_standard(after, *_SHAPE_ONLY) or before.inputs[0] is None:
        return False
    source, wide = before.inputs[0], graph.known_shape(before.outputs[0])
    shape, out = graph.known_shape(source), graph.known_shape(after.outputs[0])
    pooled = graph.known_shape(node.outputs[0])
    if shape is None or wide is None or pooled is None or len(wide) != 5:
        return False
    # The added axis is the channel axis: images of the pool are the channels of x.
    if wide != (shape[0], 1, *shape[1:]) or out != (pooled[0], *pooled[2:]):
        return False
    kernel, strides = graph.attribute(node, "kernel_shape"), graph.attribute(node, "strides", (1, 1, 1))
    pads, ceil = graph.attribute(node, "pads", (0,) * 6), graph.attribute(node, "ceil_mode", 0)
    dilations = graph.attribute(node, "dilations", (1, 1, 1))
    if kernel[0] != 1 or pads[0] or pads[3] or graph.attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return False
    name = graph.node_name(node)
    attributes = {
        "kernel_shape": kernel[1:],
        "strides": strides[1:],
        "pads": (*pads[1:3], *pads[4:]),
        "dilations": dilations[1:],
        "ceil_mode": ceil,
    }
    node.name = f"{name}_3d"
    value = insert(node, "MaxPool", [source], (*shape[:2], *out[2:]), attributes, name)
    if strides[0] > 1:
        ranges = {"starts": [0], "ends": [shape[1]], "axes": [1], "steps": [strides[0]]}
        constants = [new_constant(model, f"{name}_{key}", np.asarray(v, np.int64)) for key, v in ranges.items()]
        value = insert(node, "Slice", [value, *constants], out, name=f"{name}_channels")
    take_place(model, after.outputs[0], value)
    return True
