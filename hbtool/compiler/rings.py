"""Buffers that tiles pass through in turn, and the plan of a task that names them."""

from __future__ import annotations

from dataclasses import dataclass, field

from hbtool.compiler.allocate import Block
from hbtool.compiler.emit import Slot
from hbtool.compiler.tile import Grid
from hbtool.ops.op import Box


@dataclass(eq=False)
class Ring:
    """Buffers used in turn for the tiles of one operand or of the result."""

    blocks: list[Block]
    turn: int = -1
    slot: Slot | None = None
    box: Box | None = None

    def next(self, slot: Slot, box: Box) -> Slot:
        """Put a new tile into the buffer that was used longest ago."""
        self.turn = (self.turn + 1) % len(self.blocks)
        block = self.blocks[self.turn]
        slot.base, slot.block, slot.inherited = block.start, block, dict(block.last)
        self.slot, self.box = slot, box
        return slot


@dataclass(eq=False)
class Plan:
    """How a task runs: the grid, and a ring for every operand that passes through (`-1` is the result)."""

    grid: Grid
    rings: dict[int, Ring] = field(default_factory=dict)
    resident: dict[int, Slot] = field(default_factory=dict)
    loaded: dict[int, set[Box]] = field(default_factory=dict)


def box_bytes(box: Box, item_bytes: int) -> int:
    """Bytes of the elements of a box."""
    count = item_bytes
    for low, high in box:
        count *= high - low
    return count
