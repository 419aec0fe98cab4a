"""What is analysed, and which quantization belongs to which node.

Every place where numbers are rounded is owned by exactly one node, so that the error can be traced to nodes: its
weights, and the values it writes. Values that arrive from outside the BPU (model inputs, results of CPU nodes) are
owned by the first node that reads them. Values whose scale is that of an input (pooling, reshaping, clipping) add no
rounding of their own and follow the value they come from.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from hbtool.calibration.instrument import Samples
from hbtool.errors import UsageError
from hbtool.ir import graph, meta
from hbtool.numerics.qtype import INT32
from hbtool.ops.op import SameAs, float_op
from hbtool.passes.to_qdq import to_qdq


@dataclass(frozen=True)
class Subject:
    """A model before and after ranges were attached.

    Attributes:
        ranged: RANGED graph: float nodes, placements, meanings on values.
        samples: inputs as the float graph takes them.
    """

    ranged: ir.Model
    samples: Samples


@dataclass
class NodePoints:
    """The roundings that a node owns.

    Attributes:
        node: its name.
        op_type: its operator.
        weights: constants that are rounded.
        activations: values that are rounded.
    """

    node: str
    op_type: str
    weights: list[str] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)


class Points:
    """All roundings of a RANGED graph, by the node that owns them."""

    def __init__(self, ranged: ir.Model) -> None:
        self.nodes: dict[str, NodePoints] = {}
        self._source: dict[str, str] = {}
        self._owned: set[str] = set()
        for node in ranged.graph:
            if meta.on_bpu(node):
                self._read(node)
        self.nodes = {name: p for name, p in self.nodes.items() if p.weights or p.activations}

    def _read(self, node: ir.Node) -> None:
        op = float_op(node)
        if op is None:
            return
        name = graph.node_name(node)
        root = meta.fused_into(node)
        if root is not None:
            for out in node.outputs:
                self._own(root, out)
            return
        points = self.nodes.setdefault(name, NodePoints(name, node.op_type))
        for index in op.quantized_inputs(node):
            value = node.inputs[index]
            if value is None or graph.constant(value) is not None:
                continue
            producer = value.producer()
            if producer is None or not meta.on_bpu(producer):
                self._own(name, value)
        for index in op.weight_axes(node):
            value = node.inputs[index]
            if value is not None and graph.constant(value) is not None and meta.qparams(value) is not None:
                points.weights.append(graph.value_name(value))
        for index, out in enumerate(node.outputs):
            rule = op.output_rule(node, index)
            if isinstance(rule, SameAs) and not op.unifies_inputs and node.inputs[rule.index] is not None:
                source = graph.value_name(node.inputs[rule.index])  # type: ignore[arg-type]
                self._source[graph.value_name(out)] = self._source.get(source, source)
            else:
                self._own(name, out)

    def _own(self, node: str, value: ir.Value) -> None:
        q = meta.qparams(value)
        name = value.name
        if q is None or q.type is INT32 or name is None or name in self._owned:
            return
        self._owned.add(name)
        self.nodes[node].activations.append(name)

    def source(self, value: str) -> str:
        """The value whose rounding `value` carries (itself, or what it takes its scale from)."""
        return self._source.get(value, value)

    def find(self, names: Collection[str]) -> list[NodePoints]:
        """The points of some nodes, in graph order; all for an empty collection.

        Raises:
            UsageError: a node has none (it is on the CPU, moves values only, or does not exist).
        """
        if unknown := [n for n in names if n not in self.nodes]:
            import difflib

            near = difflib.get_close_matches(unknown[0], self.nodes, 3, 0.3)
            raise UsageError(
                f"no quantized node is called {unknown[0]!r}",
                hint=f"Did you mean {', '.join(near)}?" if near else "`hbtool debug sensitivity` lists the names.",
            )
        return [p for name, p in self.nodes.items() if not names or name in names]


def partly_quantized(ranged: ir.Model, points: Points, active: Collection[str]) -> ir.Model:
    """The Q/DQ form in which only the values and weights of `active` are rounded, everything else is float."""
    part = ranged.clone()
    for value in (*part.graph.inputs, *part.graph.initializers.values(), *(v for n in part.graph for v in n.outputs)):
        if meta.qparams(value) is not None and points.source(graph.value_name(value)) not in active:
            meta.set_qparams(value, None)
    return to_qdq(part)


def float_form(ranged: ir.Model) -> ir.Model:
    """The same graph without any rounding."""
    return ranged.clone()


def float_outputs(model: ir.Model) -> list[str]:
    """Names of the model's outputs that hold float32."""
    return [graph.value_name(v) for v in model.graph.outputs if v.dtype in (None, ir.DataType.FLOAT)]
