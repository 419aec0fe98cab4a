"""Computes once what the graph computes twice: equal operators on equal inputs.

Before: ReduceMean(x) -> Sub(x, .) and, in another branch, ReduceMean(x) -> Sub(x, .) again
After: one of each, read by both branches
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


def merge_equal_nodes(model: ir.Model) -> bool:
    """Merge everywhere; returns whether anything changed."""
    outputs = [v.name for v in model.graph.outputs]
    constants = common.DeduplicateInitializersPass()(model).modified
    changed = common.CommonSubexpressionEliminationPass()(model).modified
    assert [v.name for v in model.graph.outputs] == outputs, "outputs keep their names"
    return bool(changed and constants is not None)
