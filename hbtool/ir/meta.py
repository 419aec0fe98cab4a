"""What hbtool writes on values and nodes, with one typed accessor each; no other module spells these keys.

The facts live in ONNX `metadata_props`, so that they survive saving:

| key | on | meaning |
|---|---|---|
| `hbtool.qparams` | value | JSON of `QParams`: what the integers of this value mean |
| `hbtool.device` | node | `BPU` or `CPU` |
| `hbtool.reason` | node | why the node is on that device, one sentence |
| `hbtool.float_value` | value of the INTEGER graph | name of the float value it stands for |
| `hbtool.float_node` | node of the INTEGER graph | name of the float node it was lowered from |
| `hbtool.fused_into` | node | name of the node whose integer operator also does this node's work |
| `hbtool.torch_module` | node | path of the torch module the node came from |
| `hbtool.integer_input` | graph input | `1`: it arrives as int8, an image minus 128 |
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from hbtool.numerics.qtype import QParams, int_type

Device = Literal["BPU", "CPU"]

_QPARAMS = "hbtool.qparams"
_DEVICE = "hbtool.device"
_REASON = "hbtool.reason"
_FLOAT_VALUE = "hbtool.float_value"
_FLOAT_NODE = "hbtool.float_node"
_FUSED_INTO = "hbtool.fused_into"
_TORCH_MODULE = "hbtool.torch_module"
_INTEGER_INPUT = "hbtool.integer_input"


def qparams(value: ir.Value) -> QParams | None:
    """What the value's integers mean, None for a float value."""
    text = value.metadata_props.get(_QPARAMS)
    if text is None:
        return None
    data = json.loads(text)
    return QParams(int_type(data["type"]), tuple(data["scales"]), data["zero_point"], data["axis"])


def set_qparams(value: ir.Value, q: QParams | None) -> None:
    """Attach (or with None remove) the meaning of a value's integers."""
    if q is None:
        value.metadata_props.pop(_QPARAMS, None)
        return
    value.metadata_props[_QPARAMS] = json.dumps(
        {"type": q.type.name, "scales": list(q.scales), "zero_point": q.zero_point, "axis": q.axis}
    )


@dataclass(frozen=True)
class Placement:
    """Where a node runs, and the sentence that says why."""

    device: Device
    reason: str = ""


def placement(node: ir.Node) -> Placement:
    """The node's device; CPU where nothing was decided."""
    device: Device = "BPU" if node.metadata_props.get(_DEVICE) == "BPU" else "CPU"
    return Placement(device, node.metadata_props.get(_REASON, ""))


def set_placement(node: ir.Node, place: Placement) -> None:
    """Write the node's device and its reason."""
    node.metadata_props[_DEVICE] = place.device
    node.metadata_props[_REASON] = place.reason


def is_placed(node: ir.Node) -> bool:
    """Whether a device was ever written on the node (steps inside an integer operator's standard form have none)."""
    return _DEVICE in node.metadata_props


def on_bpu(node: ir.Node) -> bool:
    """Whether the node was placed on the BPU."""
    return node.metadata_props.get(_DEVICE) == "BPU"


def float_value(value: ir.Value) -> str | None:
    """Name of the float value that an INTEGER-graph value stands for."""
    return value.metadata_props.get(_FLOAT_VALUE)


def set_float_value(value: ir.Value, name: str) -> None:
    """Record which float value an INTEGER-graph value stands for."""
    value.metadata_props[_FLOAT_VALUE] = name


def float_node(node: ir.Node) -> str | None:
    """Name of the float node an INTEGER-graph node was lowered from."""
    return node.metadata_props.get(_FLOAT_NODE)


def set_float_node(node: ir.Node, name: str) -> None:
    """Record which float node an INTEGER-graph node was lowered from."""
    node.metadata_props[_FLOAT_NODE] = name


def fused_into(node: ir.Node) -> str | None:
    """Name of the node whose integer operator also does this node's work."""
    return node.metadata_props.get(_FUSED_INTO)


def set_fused_into(node: ir.Node, name: str | None) -> None:
    """Record (or with None remove) the node that absorbs this one."""
    if name is None:
        node.metadata_props.pop(_FUSED_INTO, None)
    else:
        node.metadata_props[_FUSED_INTO] = name


def torch_module(node: ir.Node) -> str | None:
    """Path of the torch module the node came from."""
    return node.metadata_props.get(_TORCH_MODULE)


def set_torch_module(node: ir.Node, path: str) -> None:
    """Record the torch module a node came from."""
    node.metadata_props[_TORCH_MODULE] = path


def integer_input(value: ir.Value) -> bool:
    """Whether the graph input arrives as int8 (an image minus 128), not as float."""
    return value.metadata_props.get(_INTEGER_INPUT) == "1"


def set_integer_input(value: ir.Value) -> None:
    """Record that the graph input arrives as int8."""
    value.metadata_props[_INTEGER_INPUT] = "1"
