"""Short, typed questions to an `onnx_ir` graph: shapes, constants, attributes, neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.errors import ModelError

INTEGER_DOMAIN = "hbtool"
"""Domain of the integer operators (graph stage INTEGER)."""

FUSED_DOMAIN = "hbtool.fused"
"""Domain of float functions that hbtool fused from several standard nodes; each has a standard body."""


def node_name(node: ir.Node) -> str:
    """The node's name, or its first output's name where the exporter gave none."""
    return node.name or (node.outputs[0].name if node.outputs else "") or f"<unnamed {node.op_type}>"


def value_name(value: ir.Value) -> str:
    """The value's name (every value of a loaded graph has one)."""
    if value.name is None:
        raise ModelError("a value of the graph has no name", where=str(value))
    return value.name


def static_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape as integers.

    Raises:
        ModelError: the shape is unknown or has a free dimension.
    """
    shape = known_shape(value)
    if shape is None:
        raise ModelError(
            f"the shape of {value.name!r} is not fully known ({value.shape})",
            where=node_name(producer) if (producer := value.producer()) else value.name,
            hint="Give every free dimension a size with input_shape, or export the model with static shapes.",
        )
    return shape


def known_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape as integers, or None where a dimension is unknown."""
    if value.shape is None or not all(isinstance(d, int) for d in value.shape.dims):
        return None
    return tuple(int(d) for d in value.shape.dims)  # type: ignore[arg-type]


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant value, None where the value is computed or absent."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return np.asarray(value.const_value.numpy())


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute as a plain Python value (int, float, str, tuple of these), or `default`."""
    attr = node.attributes.get(name)
    if attr is None:
        return default
    value = attr.value
    if attr.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
        return tuple(value)
    return value


def read_values(node: ir.Node) -> Iterator[ir.Value]:
    """Every value the node reads, those that its subgraphs take from outside included."""
    yield from (v for v in node.inputs if v is not None)
    for part in subgraphs(node):
        made = {*part.inputs, *part.initializers.values(), *(v for n in part for v in n.outputs)}
        for inner in part:
            yield from (v for v in read_values(inner) if v not in made)


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """The node's input number `index`, None where it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def activations(node: ir.Node) -> tuple[ir.Value, ...]:
    """The node's inputs that are computed at run time, in order."""
    return tuple(v for v in node.inputs if v is not None and constant(v) is None)


def wanted_outputs(node: ir.Node) -> Iterator[tuple[int, ir.Value]]:
    """(index, value) of the outputs that the node is asked for; ONNX leaves the name of the others empty."""
    return ((index, value) for index, value in enumerate(node.outputs) if value.name)


def consumers(value: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes that read the value, each once, in graph order of use."""
    seen: dict[ir.Node, None] = {}
    for use in value.uses():
        seen.setdefault(use.node)
    return tuple(seen)


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads the value, None where several do or the value leaves the graph."""
    users = consumers(value)
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def is_float(value: ir.Value) -> bool:
    """Whether the value holds float32 (what the BPU can carry as integers)."""
    return value.dtype == ir.DataType.FLOAT


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs inside a control-flow node."""
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.value
        elif attr.type == ir.AttributeType.GRAPHS:
            yield from attr.value


def elements(shape: Sequence[int]) -> int:
    """Number of elements of a tensor."""
    return math.prod(shape)


def main_opset(model: ir.Model) -> int:
    """The model's version of the standard operators."""
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
