"""Splits an INTEGER graph into segments: convex sets of nodes on one device, in the order they run.

The level of a node counts the device changes on the longest path to it. Two BPU nodes share a segment iff they have
one level and are connected on the BPU: then no CPU node lies on a path between them. CPU nodes in front of everything
(quantizing a model input) do not count as a change, so that inputs of different kinds meet in one segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.ir.meta import Device


@dataclass(frozen=True)
class Segment:
    """Nodes that run together on one device.

    Attributes:
        index: number among the segments of its device (`id(index)` in the node table for the BPU).
        device: BPU or CPU.
        nodes: in execution order.
        inputs: values computed outside that the nodes read (constants are not among them).
        outputs: values that other segments or the graph's outputs read.
    """

    index: int
    device: Device
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]

    @property
    def name(self) -> str:
        """`bpu_0`, `cpu_1`, ..."""
        return f"{self.device.lower()}_{self.index}"


def split_segments(model: ir.Model) -> tuple[Segment, ...]:
    """The segments of an INTEGER graph in execution order."""
    levels = _levels(model.graph)
    groups: dict[tuple[int, Device], list[ir.Node]] = {}
    for node in model.graph:
        groups.setdefault((levels[node], _device(node)), []).append(node)
    segments: list[Segment] = []
    counts: dict[Device, int] = {"BPU": 0, "CPU": 0}
    for (_, device), nodes in sorted(groups.items(), key=lambda item: item[0][0]):
        for part in _connected(nodes) if device == "BPU" else [nodes]:
            segments.append(_segment(counts[device], device, part))
            counts[device] += 1
    return tuple(segments)


def captured(node: ir.Node) -> Iterator[ir.Value]:
    """Every value a node reads, also from inside its subgraphs."""
    for value in node.inputs:
        if value is not None:
            yield value
    for inner in graph.subgraphs(node):
        own = {v for n in inner for v in n.outputs} | set(inner.inputs) | set(inner.initializers.values())
        for inner_node in inner:
            yield from (v for v in captured(inner_node) if v not in own)
        yield from (v for v in inner.outputs if v not in own)


def _device(node: ir.Node) -> Device:
    return meta.placement(node).device


def _levels(graph_: ir.Graph) -> dict[ir.Node, int]:
    levels: dict[ir.Node, int] = {}
    for node in graph_:
        bpu = meta.on_bpu(node)
        level = 0 if bpu else -1
        for value in captured(node):
            before = value.producer()
            if before is not None and before in levels:
                level = max(level, levels[before] + (meta.on_bpu(before) != bpu))
        levels[node] = level
    return levels


def _connected(nodes: list[ir.Node]) -> list[list[ir.Node]]:
    """Connected components through values, in order of their first node."""
    parent = {n: n for n in nodes}

    def root(node: ir.Node) -> ir.Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in nodes:
        for value in node.inputs:
            before = value.producer() if value is not None else None
            if before is not None and before in parent:
                parent[root(before)] = root(node)
    parts: dict[ir.Node, list[ir.Node]] = {}
    for node in nodes:
        parts.setdefault(root(node), []).append(node)
    return list(parts.values())


def _segment(index: int, device: Device, nodes: list[ir.Node]) -> Segment:
    inside = set(nodes)
    inputs: dict[ir.Value, None] = {}
    outputs: list[ir.Value] = []
    for node in nodes:
        for value in captured(node):
            if graph.constant(value) is None and value.producer() not in inside:
                inputs.setdefault(value)
        for value in node.outputs:
            if value.is_graph_output() or any(_outermost(u) not in inside for u in _users(value)):
                outputs.append(value)
    return Segment(index, device, tuple(nodes), tuple(inputs), tuple(outputs))


def _users(value: ir.Value) -> Iterable[ir.Node]:
    return (use.node for use in value.uses())


def _outermost(node: ir.Node) -> ir.Node:
    """The node of the main graph that holds `node` (itself, or the control-flow node around it)."""
    while node.graph is not None and (parent := getattr(node.graph, "parent_node", None)) is not None:
        node = parent
    return node
