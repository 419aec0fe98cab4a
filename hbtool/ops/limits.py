"""What the BPU asks of every tensor it touches, and what broadcasting it can do."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.op import FloatOp, constraint


def _tensors(op: FloatOp, node: ir.Node) -> list[tuple[int, ...]]:
    """Shapes of the node's quantized inputs and its outputs."""
    values = [node.inputs[i] for i in op.quantized_inputs(node)]
    values += list(node.outputs)
    return [shape for v in values if v is not None and (shape := graph.known_shape(v)) is not None]


def _all_ranks(op: FloatOp, node: ir.Node, low: int, high: int) -> bool | str:
    wrong = [len(s) for s in _tensors(op, node) if not low <= len(s) <= high]
    return not wrong or f"one has rank {wrong[0]}{', a single number' if wrong[0] == 0 else ''}"


class Limited(FloatOp):
    """An operator under the general limits of the feature maps."""

    @constraint()
    def not_empty(self, node: ir.Node, limit: Any) -> bool | str:
        """tensors that are not empty"""
        return all(graph.elements(s) > 0 for s in _tensors(self, node)) or "one is"

    @constraint(bernoulli2=4)
    def image_tensors(self, node: ir.Node, limit: int) -> bool | str:
        """tensors of rank {limit} (NCHW)"""
        return _all_ranks(self, node, limit, limit)

    @constraint(bayes=10, bayes_e=10, nash=10)
    def tensor_rank(self, node: ir.Node, limit: int) -> bool | str:
        """tensors of rank 1 to {limit}"""
        return _all_ranks(self, node, 1, limit)

    @constraint(bernoulli2=128, bayes=4096, bayes_e=4096)
    def batch(self, node: ir.Node, limit: int) -> bool | str:
        """a first dimension of at most {limit}"""
        largest = max((s[0] for s in _tensors(self, node) if s), default=0)
        return largest <= limit or f"it is {largest}"

    @constraint(bayes=65536, bayes_e=65536)
    def dimensions(self, node: ir.Node, limit: int) -> bool | str:
        """other dimensions of at most {limit}"""
        largest = max((n for s in _tensors(self, node) for n in s[1:]), default=0)
        return largest <= limit or f"one is {largest}"

    @constraint(bernoulli2=1, bayes=1, bayes_e=1, nash=4)
    def tensor_bytes(self, node: ir.Node, limit: int) -> bool | str:
        """tensors of at most {limit} GiB as int8"""
        largest = max((graph.elements(s) for s in _tensors(self, node)), default=0)
        return largest <= limit << 30 or f"one has {largest} elements"


class Broadcasting(Limited):
    """An elementwise operator of two tensors."""

    @constraint()
    def one_activation(self, node: ir.Node, limit: Any) -> bool | str:
        """at least one operand that is computed"""
        return bool(graph.activations(node)) or "all are constants"

    @constraint(bayes=5, nash=10)
    def broadcast_rank(self, node: ir.Node, limit: int) -> bool | str:
        """a result of rank 2 to {limit}"""
        rank = len(graph.static_shape(node.outputs[0]))
        return 2 <= rank <= limit or f"the rank is {rank}"

    @constraint("bayes")
    def no_batch_broadcast(self, node: ir.Node, limit: Any) -> bool | str:
        """operands that do not broadcast along the first axis (the batch)"""
        out = graph.static_shape(node.outputs[0])
        shapes = [graph.static_shape(v) for v in graph.activations(node)]
        full = [s for s in shapes if len(s) == len(out)]
        return all(s[0] == out[0] for s in full) or f"the shapes are {_shapes_text(node)}"

    @constraint("bayes", "bayes-e")
    def collapsible(self, node: ir.Node, limit: Any) -> bool | str:
        """a broadcast over at most 4 axes, where neighbours that broadcast alike count as one and axes of size 1 not"""
        count = len(_merged_axes(node))
        return count <= 4 or f"{count} are left of {_shapes_text(node)}"

    @constraint(bernoulli2=2048)
    def channels(self, node: ir.Node, limit: int) -> bool | str:
        """at most {limit} channels"""
        count = graph.static_shape(node.outputs[0])[1]
        return count <= limit or f"there are {count}"


class PerChannel(Broadcasting):
    """A product or quotient, which bernoulli2 knows of equal shapes and of one value per channel."""

    @constraint("bernoulli2")
    def simple_broadcast(self, node: ir.Node, limit: Any) -> bool | str:
        """operands of one shape, or one of them with a value per channel (1xCx1x1) or a single value"""
        out = graph.static_shape(node.outputs[0])
        allowed = (out, (out[0], out[1], 1, 1), (1, out[1], 1, 1), (1, 1, 1, 1))
        shapes = [graph.static_shape(v) for v in node.inputs if v is not None]
        fits = all(s in allowed or graph.elements(s) == 1 for s in shapes)
        return fits or f"the shapes are {_shapes_text(node)}"


def same_or_per_channel(node: ir.Node) -> bool | str:
    """Whether every operand has the shape of the result, or one value per channel; else the shapes, as text."""
    out = graph.static_shape(node.outputs[0])
    shapes = [graph.static_shape(v) for v in node.inputs if v is not None]
    fits = all(s in (out, (out[0], out[1], 1, 1), (1, out[1], 1, 1)) for s in shapes)
    return fits or f"the shapes are {_shapes_text(node)}"


def one_broadcasts(node: ir.Node) -> bool | str:
    """Whether at most one operand broadcasts; else the shapes, as text."""
    out = graph.static_shape(node.outputs[0])
    smaller = [v for v in node.inputs if v is not None and graph.static_shape(v) != out]
    return len(smaller) <= 1 or f"the shapes are {_shapes_text(node)}"


def _shapes_text(node: ir.Node) -> str:
    shapes = [graph.static_shape(v) for v in node.inputs if v is not None]
    return ", ".join("x".join(map(str, s)) or "a number" for s in shapes)


def _merged_axes(node: ir.Node) -> list[tuple[bool, ...]]:
    """Kinds of the output's axes (which operands broadcast there), neighbours of one kind merged, axes of 1 dropped."""
    out = graph.static_shape(node.outputs[0])
    shapes = [graph.static_shape(v) for v in node.inputs if v is not None]
    padded = [(1,) * (len(out) - len(s)) + s for s in shapes]
    merged: list[tuple[bool, ...]] = []
    for axis, size in enumerate(out):
        kind = tuple(s[axis] != size for s in padded)
        if size != 1 and (not merged or merged[-1] != kind):
            merged.append(kind)
    return merged
