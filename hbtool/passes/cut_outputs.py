"""Makes the outputs of named nodes the outputs of the model (`output_nodes`).

Before: ... -> a -> b -> output
After: ... -> a, with a's values as the model's outputs
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from hbtool.ir import graph


def cut_outputs(model: ir.Model, node_names: Sequence[str]) -> None:
    """Replace the graph's outputs, in place; nothing happens for an empty list."""
    if not node_names:
        return
    nodes = {graph.node_name(n): n for n in model.graph}
    outputs = [v for name in node_names if name in nodes for v in nodes[name].outputs]
    model.graph.outputs.clear()
    model.graph.outputs.extend(dict.fromkeys(outputs))
    common.RemoveUnusedNodesPass()(model)
