"""Names for new values: whatever a user's model calls its own, no two values of a graph share a name."""

from __future__ import annotations

import itertools

import onnx_ir as ir


class FreshNames:
    """Hands out names that no value of a graph has.

    Args:
        graph: the graph the new values are for; values that it gets from elsewhere later are not known.
    """

    def __init__(self, graph: ir.Graph) -> None:
        produced = itertools.chain.from_iterable(node.outputs for node in graph)
        values = itertools.chain(graph.inputs, graph.initializers.values(), produced)
        self._taken = {value.name for value in values}

    def take(self, name: str) -> str:
        """`name`, or `name` with underscores behind it where there is one already."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
