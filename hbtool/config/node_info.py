"""`node_info` and `set_node_data_type`: what single nodes are asked to do."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hbtool.config.values import BadValueError, clean, parse_choice, split_parts

Device = Literal["BPU", "CPU"]
NodeType = Literal["int8", "int16"]
NODE_TYPES = ("int8", "int16")
NODE_KEYS = ("ON", "InputType", "InputType0", "InputType1", "OutputType")


class InputTypeAt(BaseModel):
    """`InputTypeN`: the integer type of the N-th input (0-based)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    dtype: NodeType


class NodeSetting(BaseModel):
    """What one node (or every node a glob matches) is asked to do; None means "as hbtool decides"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    device: Device | None = None
    input_type: NodeType | None = None
    input_types: tuple[InputTypeAt, ...] = ()
    output_type: NodeType | None = None

    def input_dtype(self, index: int) -> NodeType | None:
        """The type asked for input ``index``: `InputTypeN` before `InputType`."""
        for entry in self.input_types:
            if entry.index == index:
                return entry.dtype
        return self.input_type

    def as_dict(self) -> dict[str, str]:
        """The setting in the vendor's words."""
        found: dict[str, str] = {"ON": self.device} if self.device else {}
        if self.input_type:
            found["InputType"] = self.input_type
        found |= {f"InputType{entry.index}": entry.dtype for entry in self.input_types}
        if self.output_type:
            found["OutputType"] = self.output_type
        return found


def parse_node_types(text: str) -> tuple[NodeSetting, ...]:
    """The string form `node1:int16;node2:int16`. Node names may hold colons; the last one counts."""
    settings: list[NodeSetting] = []
    for part in split_parts(text):
        if part is None:
            continue
        node, colon, dtype = part.rpartition(":")
        if not colon or not clean(node):
            raise BadValueError(f"{part!r} names no type", "Write node:int16, several separated by ';'.")
        settings.append(NodeSetting(node=clean(node), output_type=_node_type(dtype)))
    return tuple(settings)


def parse_attribute(name: str, value: str) -> dict[str, object] | None:
    """One attribute of the dict form as fields of NodeSetting; None if there is no such attribute.

    Raises BadValueError for `OutputTypeN` and for values that are not offered.
    """
    word = name.lower().replace("_", "")
    if word in ("on", "device"):
        return {"device": parse_choice(value, ("BPU", "CPU"))}
    if word == "inputtype":
        return {"input_type": _node_type(value)}
    if word == "outputtype":
        return {"output_type": _node_type(value)}
    if re.fullmatch(r"outputtype\d+", word):
        raise BadValueError(f"{name} is not offered: OutputType covers all outputs of a node", "Write OutputType.")
    numbered = re.fullmatch(r"inputtype(\d{1,4})", word)
    if numbered:
        return {"input_types": (InputTypeAt(index=int(numbered[1]), dtype=_node_type(value)),)}
    return None


def _node_type(text: str) -> NodeType:
    word = parse_choice(text, NODE_TYPES)
    return "int16" if word == "int16" else "int8"
