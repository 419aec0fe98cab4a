"""Takes nodes off the head and the tail of a finished INTEGER graph; the application then does their work.

Before: x (float32) -> Quantize -> [BPU] -> Dequantize -> Transpose -> y (float32)
After:  x (int8) -> [BPU] -> y (int32)

Only nodes that touch a model input or output can go. Each removal is judged on the graph that the ones before left.
Inputs and outputs keep their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.ops.boundary import BoundaryAttributes, Decode, Dequantize, EncodeBool, Quantize
from hbtool.ops.op import is_integer, read_attributes

Side = Literal["head", "tail"]

HEAD_TYPES = ("Quantize", "Transpose", "Cast", "Reshape")
TAIL_TYPES = ("Dequantize", "Transpose", "Cast", "Reshape", "Softmax")

_STANDARD = {t: t for t in ("Transpose", "Cast", "Reshape", "Softmax")}
_STANDARD |= dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze"), "Reshape")
_BOUNDARY = {Quantize.name: "Quantize", Dequantize.name: "Dequantize", Decode.name: "Cast", EncodeBool.name: "Cast"}


@dataclass(frozen=True)
class RemovedNode:
    """A node whose work the application does.

    Attributes:
        name: node name.
        type: Quantize, Dequantize, Transpose, Cast, Reshape (also Flatten, Squeeze, Unsqueeze) or Softmax.
        side: at the head (before the model) or the tail (after it).
        value: the model input or output it touched.
        attributes: type, scales, zero_point and axis; perm; to; shape; axis.
        in_shape: shape of what the node read.
        in_dtype: numpy dtype name of what it read.
        out_shape: shape of what it wrote.
        out_dtype: numpy dtype name of what it wrote.
    """

    name: str
    type: str
    side: Side
    value: str
    in_shape: tuple[int, ...]
    in_dtype: str
    out_shape: tuple[int, ...]
    out_dtype: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()} | {
            "attributes": {k: list(v) if isinstance(v, tuple) else v for k, v in self.attributes.items()}
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> RemovedNode:
        """The inverse of `as_json`."""
        side: Side = "head" if entry["side"] == "head" else "tail"
        attributes = {str(k): tuple(v) if isinstance(v, list) else v for k, v in entry["attributes"].items()}
        return cls(
            str(entry["name"]),
            str(entry["type"]),
            side,
            str(entry["value"]),
            tuple(int(n) for n in entry["in_shape"]),
            str(entry["in_dtype"]),
            tuple(int(n) for n in entry["out_shape"]),
            str(entry["out_dtype"]),
            attributes,
        )


@dataclass(frozen=True)
class _Border:
    node: ir.Node
    side: Side
    index: int
    type: str


def removable(model: ir.Model) -> tuple[RemovedNode, ...]:
    """The nodes that could go now, heads first."""
    return tuple(_describe(model, border) for border in _borders(model))


def remove_border_nodes(
    model: ir.Model, names: Sequence[str] = (), types: Sequence[str] = ()
) -> tuple[RemovedNode, ...]:
    """Remove nodes in place: the named ones in their order, then type after type in theirs.

    Args:
        model: an INTEGER graph.
        names: node names; one that is not at a border then is left alone.
        types: node types; all nodes of a type that are at a border, also those that appear there while it is its turn.

    Returns:
        What was removed, in order.
    """
    removed: list[RemovedNode] = []
    for name in names:
        if (found := _remove_one(model, lambda b, name=name: graph.node_name(b.node) == name)) is not None:  # type: ignore[misc]
            removed.append(found)
    for type_ in types:
        while (found := _remove_one(model, lambda b, type_=type_: b.type == type_)) is not None:  # type: ignore[misc]
            removed.append(found)
    return tuple(removed)


def _remove_one(model: ir.Model, wanted: Callable[[_Border], bool]) -> RemovedNode | None:
    border = next((b for b in _borders(model) if wanted(b)), None)
    if border is None:
        return None
    described = _describe(model, border)
    (_remove_head if border.side == "head" else _remove_tail)(model, border)
    return described


def _borders(model: ir.Model) -> list[_Border]:
    found = []
    for index, value in enumerate(model.graph.inputs):
        node = graph.sole_consumer(value)
        if node is not None and not meta.integer_input(value) and _is_head(node, value):
            type_ = _type_of(node)
            if type_ in HEAD_TYPES:
                found.append(_Border(node, "head", index, type_))
    for index, value in enumerate(model.graph.outputs):
        node = value.producer()
        if node is not None and _is_tail(model, node, value):
            type_ = _type_of(node)
            if type_ in TAIL_TYPES:
                found.append(_Border(node, "tail", index, type_))
    return found


def _type_of(node: ir.Node) -> str | None:
    if is_integer(node) and node.op_type in _BOUNDARY:
        return _BOUNDARY[node.op_type]
    return _STANDARD.get(node.op_type) if node.domain in ("", graph.INTEGER_DOMAIN) else None


def _is_head(node: ir.Node, value: ir.Value) -> bool:
    """Whether the node reads nothing computed but this input, and its one result stays inside."""
    only = all(v is value or v is None or graph.constant(v) is not None for v in node.inputs)
    uses = [i for i, v in enumerate(node.inputs) if v is value]
    out = node.outputs[0]
    return only and uses == [0] and len(node.outputs) == 1 and not out.is_graph_output() and bool(out.uses())


def _is_tail(model: ir.Model, node: ir.Node, value: ir.Value) -> bool:
    """Whether the node's one result only leaves the model, and what it reads can leave in its place."""
    source = node.inputs[0] if node.inputs else None
    computed = [v for v in node.inputs if v is not None and graph.constant(v) is None]
    return (
        len(node.outputs) == 1
        and not value.uses()
        and [v is value for v in model.graph.outputs].count(True) == 1
        and source is not None
        and computed == [source]
        and source.producer() is not None
        and not source.is_graph_output()
    )


def _remove_head(model: ir.Model, border: _Border) -> None:
    old, new = model.graph.inputs[border.index], border.node.outputs[0]
    shape, type_, properties = new.shape, new.type, dict(new.metadata_props)
    name, old.name = old.name, f"{old.name}_removed"
    entry = ir.Value(name=name, shape=shape, type=type_)
    entry.metadata_props.update(properties)
    new.replace_all_uses_with(entry)
    model.graph.remove(border.node, safe=True)
    model.graph.inputs[border.index] = entry


def _remove_tail(model: ir.Model, border: _Border) -> None:
    old, new = model.graph.outputs[border.index], border.node.inputs[0]
    assert new is not None, "checked by _is_tail"
    name, old.name = old.name, f"{old.name}_removed"
    model.graph.outputs[border.index] = new
    model.graph.remove(border.node, safe=True)
    new.name = name


def _describe(model: ir.Model, border: _Border) -> RemovedNode:
    node, source, result = border.node, border.node.inputs[0], border.node.outputs[0]
    assert source is not None, "checked by _is_head and _is_tail"
    touched = (model.graph.inputs if border.side == "head" else model.graph.outputs)[border.index]
    return RemovedNode(
        graph.node_name(node),
        border.type,
        border.side,
        graph.value_name(touched),
        graph.static_shape(source),
        _dtype(source),
        graph.static_shape(result),
        _dtype(result),
        _attributes(node, border.type, result),
    )


def _dtype(value: ir.Value) -> str:
    return "float32" if value.dtype is None else str(value.dtype.numpy().name)


def _attributes(node: ir.Node, type_: str, result: ir.Value) -> dict[str, Any]:
    if type_ in ("Quantize", "Dequantize"):
        a = read_attributes(node)
        assert isinstance(a, BoundaryAttributes), "both have these"
        return {"type": a.type, "scales": tuple(a.scales), "zero_point": a.zero_point, "axis": a.axis}
    rank = len(graph.static_shape(result))
    if type_ == "Transpose":
        perm = graph.attribute(node, "perm") or tuple(reversed(range(rank)))
        return {"perm": tuple(perm)}
    if type_ == "Reshape":
        return {"shape": graph.static_shape(result)}
    if type_ == "Softmax":
        return {"axis": graph.attribute(node, "axis", -1)}
    return {"to": _dtype(result)}
