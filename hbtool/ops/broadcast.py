"""Boxes of operands that broadcast against the output."""

from __future__ import annotations

from collections.abc import Sequence

from hbtool.ops.op import Box


def operand_box(shape: Sequence[int], box: Box) -> Box:
    """The box of an operand of `shape` that an output box reads (numpy broadcasting)."""
    lead = len(box) - len(shape)
    return tuple((0, 1) if n == 1 else b for n, b in zip(shape, box[lead:], strict=True))
