"""Where a node of the user's model went when the float graph was simplified: its own name, or who does its work now."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from hbtool.ir import graph


def absorbers(original: ir.Model, optimized: ir.Model) -> Mapping[str, str | None]:
    """Node of `original` -> the node of `optimized` that does its work.

    None where nobody does: the node changed nothing, its result was constant, or nothing reads it. A node that is still
    there maps to itself. Values keep their names through simplification, so whoever writes the value of a vanished node
    has absorbed it; a value that vanished too was inside a chain, whose end has changed.
    """
    left = {graph.node_name(n): n for n in optimized.graph}
    writers = {v.name: graph.node_name(n) for n in optimized.graph for v in n.outputs}
    before = {graph.node_name(n): n for n in original.graph}
    found: dict[str, str | None] = {}
    for name, node in before.items():
        if name in left:
            found[name] = name
            continue
        written = [writers[v.name] for v in node.outputs if v.name in writers]
        found[name] = written[0] if written else _neighbour(node, before, left, writers)
    return found


def _neighbour(
    node: ir.Node, before: Mapping[str, ir.Node], left: Mapping[str, ir.Node], writers: Mapping[str | None, str]
) -> str | None:
    """The nearest node after (or before) a vanished one that is not what it was."""
    for forward in (True, False):
        seen: set[ir.Node] = {node}
        queue = _next(node, forward)
        while queue:
            other = queue.pop(0)
            if other in seen:
                continue
            seen.add(other)
            name = graph.node_name(other)
            if name in left:
                if _differs(left[name], before[name]):
                    return name
                continue
            written = [writers[v.name] for v in other.outputs if v.name in writers]
            if written:
                return written[0]
            queue += _next(other, forward)
    return None


def _next(node: ir.Node, forward: bool) -> list[ir.Node]:
    if forward:
        return [user for value in node.outputs for user in graph.consumers(value)]
    return [p for value in node.inputs if value is not None and (p := value.producer()) is not None]


def _differs(now: ir.Node, then: ir.Node) -> bool:
    if (now.domain, now.op_type) != (then.domain, then.op_type):
        return True
    # Weights that absorbed something are new constants.
    names = [
        [v.name if v is not None and graph.constant(v) is not None else None for v in n.inputs] for n in (now, then)
    ]
    attributes = [{k: str(a.value) for k, a in n.attributes.items()} for n in (now, then)]
    return names[0] != names[1] or attributes[0] != attributes[1]
