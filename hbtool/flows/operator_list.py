"""ops: what the BPU takes, per march, as the operators themselves state it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.flows.named_target import named_target
from hbtool.ops.op import ANY, Family, FloatOp, float_ops


@dataclass(frozen=True)
class OperatorRow:
    """One ONNX operator on one march.

    Attributes:
        op_type: ONNX op type.
        device: BPU, BPU-manual (CPU unless asked for) or CPU.
        kind: active (has a range of its own), passive (takes its neighbour's) or manual.
        int16: none, in+out, or the inputs that stay int8.
        conditions: what the BPU needs, as sentences.
        arithmetic: how it computes on integers.
    """

    op_type: str
    device: str
    kind: str
    int16: str
    conditions: tuple[str, ...]
    arithmetic: str


def operator_list(march: str, wanted: Sequence[str] = ()) -> tuple[OperatorRow, ...]:
    """The operators with a BPU form, sorted by name; `wanted` narrows to some op types (case does not matter).

    Raises:
        ConfigError: there is no such march.
    """
    family = named_target(march).family
    names = {name.lower() for name in wanted}
    rows = [
        _row(op_type, op, family)
        for (_, op_type), op in float_ops().items()
        if op_type != ANY and (not names or op_type.lower() in names)
    ]
    return tuple(sorted(rows, key=lambda row: row.op_type))


def _row(op_type: str, op: FloatOp, family: Family) -> OperatorRow:
    here = family in op.families_of(op_type)
    device = "CPU" if not here else "BPU-manual" if op.manual else "BPU"
    kind = "manual" if op.manual else "passive" if op.passive else "active"
    conditions = tuple(c.sentence(family) for c in op.constraints() if family in c.limits) if here else ()
    return OperatorRow(op_type, device, kind, _int16(op, family) if here else "-", conditions, op.rule_text)


def _int16(op: FloatOp, family: Family) -> str:
    if family == "bernoulli2" or family in op.int8_only:
        return "no"
    stays = op.int8_positions.get(family, ())
    return f"yes, input {', '.join(map(str, stays))} int8" if stays else "yes"
