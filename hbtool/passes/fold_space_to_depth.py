"""SpaceToDepth before a convolution becomes a convolution of larger stride: the same products, nothing to move.

Before: x -> SpaceToDepth(b) -> Conv(kernel k, stride s, pads p)
After: x -> Conv(kernel b * k, stride b * s, pads b * p)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.onnx_builder import attr
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import is_standard, producer_of, remove_unused


def fold_space_to_depth(model: ir.Model) -> bool:
    """Fold everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if not is_standard(node, "Conv"):
            continue
        before = producer_of(node.inputs[0], "SpaceToDepth")
        weight = graph.constant(node.inputs[1])
        if before is None or weight is None or weight.ndim != 4 or not _plain(node):
            continue
        if graph.sole_consumer(before.outputs[0]) is node:
            _fold(model, node, before, weight)
            changed = True
    return changed


def _plain(node: ir.Node) -> bool:
    return (
        graph.attribute(node, "group", 1) == 1
        and graph.attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and set(graph.attribute(node, "dilations", (1, 1))) == {1}
    )


def _fold(model: ir.Model, node: ir.Node, before: ir.Node, weight: np.ndarray) -> None:
    block = graph.attribute(before, "blocksize")
    outputs, inputs, height, width = weight.shape
    # Channel (i * b + j) * C + c of SpaceToDepth is pixel (i, j) of each block of channel c.
    split = weight.reshape(outputs, block, block, inputs // block**2, height, width).transpose(0, 3, 4, 1, 5, 2)
    wide = split.reshape(outputs, inputs // block**2, height * block, width * block)
    value = node.inputs[1]
    assert value is not None
    node.replace_input_with(1, new_constant(model, f"{value.name}_wide", wide))
    node.replace_input_with(0, before.inputs[0])
    node.attributes["kernel_shape"] = attr("kernel_shape", wide.shape[2:])
    node.attributes["strides"] = attr("strides", [s * block for s in graph.attribute(node, "strides", (1, 1))])
    node.attributes["pads"] = attr("pads", [p * block for p in graph.attribute(node, "pads", (0, 0, 0, 0))])
    node.attributes.pop("auto_pad", None)
    remove_unused(model, before)
