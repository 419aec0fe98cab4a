"""Pad with zeros before a convolution becomes the convolution's own padding.

Before: Pad(0) -> Conv
After: Conv with larger pads.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.onnx_builder import attr


def fold_padding(model: ir.Model) -> bool:
    """Fold everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if node.op_type != "Conv" or graph.attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            continue
        source = node.inputs[0]
        pad = source.producer() if source is not None else None
        if source is None or pad is None or pad.op_type != "Pad" or graph.sole_consumer(source) is not node:
            continue
        amounts = _zero_padding(pad)
        if amounts is None or np.any(amounts[:, :2] != 0):
            continue
        spatial = amounts[:, 2:]
        own = np.reshape(graph.attribute(node, "pads") or (0,) * spatial.size, spatial.shape)
        node.attributes["pads"] = attr("pads", [int(p) for p in (own + spatial).reshape(-1)])
        node.attributes.pop("auto_pad", None)
        node.replace_input_with(0, pad.inputs[0])
        model.graph.remove(pad, safe=True)
        changed = True
    return changed


def _zero_padding(pad: ir.Node) -> np.ndarray | None:
    """[2, rank] amounts before and after, None unless the border is zeros and all amounts are known."""
    if graph.attribute(pad, "mode", "constant") != "constant" or pad.inputs[0] is None:
        return None
    amounts, fill = graph.constant(graph.input_at(pad, 1)), graph.constant(graph.input_at(pad, 2))
    if amounts is None or (
        graph.input_at(pad, 2) is not None and (fill is None or (fill.size and float(fill.reshape(-1)[0])))
    ):
        return None
    rank = len(graph.static_shape(pad.inputs[0]))
    full = np.zeros((2, rank), np.int64)
    axes = graph.constant(graph.input_at(pad, 3))
    if graph.input_at(pad, 3) is not None and axes is None:
        return None
    full[:, range(rank) if axes is None else [int(a) % rank for a in axes]] = amounts.reshape(2, -1)
    return full if np.all(full >= 0) else None
