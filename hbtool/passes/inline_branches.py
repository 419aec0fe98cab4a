"""A choice that is known ahead becomes the branch that is taken.

Before: If with a constant condition
After: the nodes of its branch, in the graph itself
"""

from __future__ import annotations

import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ir.names import FreshNames
from hbtool.passes.replace import insert, is_standard, take_place


def inline_branches(model: ir.Model) -> bool:
    """Inline everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        condition = graph.constant(node.inputs[0]) if is_standard(node, "If") else None
        if condition is None or condition.size != 1:
            continue
        branch = node.attributes["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"].as_graph()
        _inline(model, node, branch)
        changed = True
    return changed


def _inline(model: ir.Model, node: ir.Node, branch: ir.Graph) -> None:
    values, names = FreshNames(model.graph), {graph.node_name(n) for n in model.graph}
    for name, value in list(branch.initializers.items()):
        del branch.initializers[name]
        value.name = values.take(name)
        model.graph.register_initializer(value)
    moved, results = list(branch), list(branch.outputs)
    branch.outputs.clear()
    branch.remove(moved)
    for inner in moved:
        for value in inner.outputs:
            value.name = values.take(value.name) if value.name else value.name
        while graph.node_name(inner) in names:
            inner.name = f"{graph.node_name(inner)}_"
        names.add(graph.node_name(inner))
    model.graph.insert_before(node, moved)
    made = {value for inner in moved for value in inner.outputs}
    for old, new in zip(list(node.outputs), results, strict=True):
        if new not in made:
            # A value from outside, or one that is given out twice, keeps its own name.
            new = insert(node, "Identity", [new], graph.known_shape(new) or (), name=f"{old.name}_branch")
            new.shape = old.shape
        made.discard(new)
        take_place(model, old, new)
