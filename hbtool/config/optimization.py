"""The `optimization` flags as a typed object."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hbtool.config.values import BadValueError

IntType = Literal["int8", "int16"]
Side = Literal["input", "output"]

PLAIN_FLAGS = ("set_all_nodes_int16", "asymmetric", "bias_correction", "equalize", "lstm_batch_last", "run_fast")
_OUTPUT = re.compile(r"set_model_output_(int8|int16)")
_KIND = re.compile(r"set_([A-Za-z]\w*?)_(input|output)_(int8|int16)")


class KindFlag(BaseModel):
    """`set_{Kind}_{input|output}_{int8|int16}`: every node of one ONNX op type, one side, one integer type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    op_type: str
    side: Side
    dtype: IntType

    @property
    def text(self) -> str:
        """The flag as it is written."""
        return f"set_{self.op_type}_{self.side}_{self.dtype}"


class OptimizationFlags(BaseModel):
    """What `optimization` asks for. Flags that the march ignores are not in here."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_output: IntType | None = None
    kinds: tuple[KindFlag, ...] = ()
    all_nodes_int16: bool = False
    asymmetric: bool = False
    bias_correction: bool = False
    equalize: bool = False
    lstm_batch_last: bool = False
    run_fast: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags as they are written, in a fixed order."""
        found = [f"set_model_output_{self.model_output}"] if self.model_output else []
        found += ["set_all_nodes_int16"] if self.all_nodes_int16 else []
        found += [kind.text for kind in self.kinds]
        found += [name for name in PLAIN_FLAGS[1:] if getattr(self, name)]
        return tuple(found)

    def kind_dtype(self, op_type: str, side: Side) -> IntType | None:
        """The integer type asked for one side of the nodes of ``op_type``, or None."""
        for kind in self.kinds:
            if kind.op_type == op_type and kind.side == side:
                return kind.dtype
        return None


def parse_flag(flag: str) -> dict[str, object] | None:
    """One flag as the field it sets, or None if there is no such flag."""
    output = _OUTPUT.fullmatch(flag)
    if output:
        return {"model_output": output[1]}
    if flag == "set_all_nodes_int16":
        return {"all_nodes_int16": True}
    if flag in PLAIN_FLAGS:
        return {flag: True}
    kind = _KIND.fullmatch(flag)
    if kind:
        return {"kinds": KindFlag.model_validate({"op_type": kind[1], "side": kind[2], "dtype": kind[3]})}
    return None


def build_flags(flags: Iterable[str]) -> tuple[OptimizationFlags, tuple[str, ...]]:
    """The typed flags and the words that are none. Raises BadValueError where two flags contradict each other."""
    fields: dict[str, object] = {}
    kinds: dict[tuple[str, str], KindFlag] = {}
    unknown: list[str] = []
    for flag in flags:
        parsed = parse_flag(flag)
        if parsed is None:
            unknown.append(flag)
            continue
        kind = parsed.pop("kinds", None)
        if isinstance(kind, KindFlag):
            earlier = kinds.setdefault((kind.op_type, kind.side), kind)
            if earlier.dtype != kind.dtype:
                raise BadValueError(f"{earlier.text} and {kind.text} contradict each other", "Keep one of them.")
        for name, value in parsed.items():
            if fields.setdefault(name, value) != value:
                raise BadValueError("set_model_output_int8 and set_model_output_int16 exclude each other", "Keep one.")
    fields["kinds"] = tuple(kinds.values())
    return OptimizationFlags.model_validate(fields), tuple(unknown)


def known_flags() -> tuple[str, ...]:
    """Every flag, with Softmax standing for an op type: for messages and pages."""
    sides = [f"set_Softmax_{side}_{dtype}" for side in ("input", "output") for dtype in ("int8", "int16")]
    return ("set_model_output_int8", "set_model_output_int16", *sides, *PLAIN_FLAGS)
