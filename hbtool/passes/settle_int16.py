"""Decides which int16 requests can be fulfilled: a value is int16 only if all who write and read it can work with that.

Values that share their integers (around operators that only move them, and around a join with one scale) are decided
together. What cannot be is int8, with the reason. A reader that can round its input to int8 by itself (average pooling)
does not hold back the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.numerics.qtype import INT16
from hbtool.ops.int16 import int16_refusal
from hbtool.ops.op import Family, FloatOp, SameAs, float_op


@dataclass(frozen=True)
class Int16Request:
    """Somebody wants one value in int16.

    Attributes:
        value: the value of the placed float graph.
        node: the node that the user named.
        slot: `input 0`, `output`, ...
        origin: the key or flag that asks for it.
    """

    value: ir.Value
    node: str
    slot: str
    origin: str


@dataclass(frozen=True)
class RefusedInt16:
    """A request that falls back to int8."""

    node: str
    slot: str
    origin: str
    reason: str


def settle_int16(
    model: ir.Model, family: Family, requests: Sequence[Int16Request]
) -> tuple[frozenset[str], tuple[RefusedInt16, ...]]:
    """The names of the values to carry in int16, and the requests that cannot be fulfilled.

    Args:
        model: float graph with placements; clamps that are absorbed are marked.
        family: BPU family.
        requests: what is wanted, in the order of the user's configuration.
    """
    groups = _Groups(model)
    verdicts: dict[ir.Value, str | None] = {}
    granted: dict[str, None] = {}
    refused: list[RefusedInt16] = []
    for request in requests:
        root = groups.root(_behind_clamp(request.value))
        if root not in verdicts:
            verdicts[root] = next((r for v in groups.members(root) if (r := _refusal(v, family)) is not None), None)
        reason = verdicts[root]
        if reason is None:
            granted.update(dict.fromkeys(graph.value_name(v) for v in groups.members(root)))
        else:
            refused.append(RefusedInt16(request.node, request.slot, request.origin, reason))
    return frozenset(granted), tuple(dict.fromkeys(refused))


def _behind_clamp(value: ir.Value) -> ir.Value:
    """The value that really exists: what an absorbed clamp reads is never stored."""
    user = graph.sole_consumer(value)
    producer = value.producer()
    if user is not None and producer is not None and meta.fused_into(user) == graph.node_name(producer):
        return user.outputs[0]
    return value


def _refusal(value: ir.Value, family: Family) -> str | None:
    """Why a value cannot be int16: the first who writes or reads it and cannot."""
    if value.is_graph_input() and meta.integer_input(value):
        return "image inputs have 8 bits"
    trained = meta.qparams(value)
    if trained is not None and trained.type is not INT16:
        return f"its range was trained for {trained.type.name}"
    producer = value.producer()
    if producer is not None and meta.fused_into(producer) is not None:
        source = producer.inputs[0]
        producer = source.producer() if source is not None else None
    if producer is not None and meta.on_bpu(producer):
        op = float_op(producer)
        if op is not None and (reason := int16_refusal(op, producer, family, None)) is not None:
            return f"{graph.node_name(producer)} writes it: {reason}"
    readers = list(_readers(value))
    all_narrow = all(family in op.int8_only and op.narrows_int16 for _, _, op in readers)
    for node, position, op in readers:
        if (reason := int16_refusal(op, node, family, position)) is not None and (all_narrow or not op.narrows_int16):
            return f"{graph.node_name(node)} reads it: {reason}"
    return None


def _readers(value: ir.Value) -> Iterable[tuple[ir.Node, int, FloatOp]]:
    for use in value.uses():
        op = float_op(use.node)
        if meta.on_bpu(use.node) and op is not None and use.idx in op.quantized_inputs(use.node):
            yield use.node, use.idx, op


class _Groups:
    """Values that share their integers: union of what passive and joining operators read and write."""

    def __init__(self, model: ir.Model) -> None:
        self._parent: dict[ir.Value, ir.Value] = {}
        self._members: dict[ir.Value, list[ir.Value]] = {}
        for node in model.graph:
            op = float_op(node)
            if not meta.on_bpu(node) or op is None or meta.fused_into(node) is not None:
                continue
            for index, output in enumerate(node.outputs):
                rule = op.output_rule(node, index)
                if op.unifies_inputs:
                    sources = [node.inputs[i] for i in op.quantized_inputs(node)]
                elif isinstance(rule, SameAs):
                    sources = [node.inputs[rule.index]]
                else:
                    continue
                for source in sources:
                    if source is not None:
                        self._join(_behind_clamp(source), _behind_clamp(output))

    def root(self, value: ir.Value) -> ir.Value:
        """The value that stands for the group."""
        while (parent := self._parent.get(value)) is not None:
            value = parent
        return value

    def members(self, root: ir.Value) -> Sequence[ir.Value]:
        """Every value of a group."""
        return self._members.get(root, [root])

    def _join(self, a: ir.Value, b: ir.Value) -> None:
        first, second = self.root(a), self.root(b)
        if first is not second:
            self._members[first] = [*self.members(first), *self.members(second)]
            self._parent[second] = first
