"""Where a function call ends: near the limit, between layers, and between the tiles of a layer that is longer itself.

Nothing stays on chip from one call to the next, another task may run in between.
"""

from __future__ import annotations

import math

from hbtool.compiler.residence import Residence
from hbtool.compiler.rings import box_bytes
from hbtool.compiler.tile import Task

CALL_PART = 0.5
"""A call ends once its busiest engine has taken this part of the limit; the rest is waiting and the next piece."""

TILE_PART = 0.125
"""A tile of a layer that is cut takes at most about this part of the limit."""

MOST_TILES = 1024


class CallLimit:
    """Watches the length of the current call.

    Attributes:
        limit_us: longest call, 0 for no limit.
    """

    def __init__(self, residence: Residence, limit_us: float) -> None:
        self.r, self.target, self.emitter = residence, residence.target, residence.emitter
        self.limit_us = limit_us

    @property
    def full(self) -> bool:
        """Whether the call should end before anything else is added."""
        if not self.limit_us:
            return False
        busy: dict[tuple[str, int], float] = {}
        for i in self.emitter.instructions[self.emitter.call_start :]:
            key = (i.engine, i.core)
            moved = self.target.transfer_cycles(i.job.loaded_bytes + i.job.stored_bytes)
            busy[key] = busy.get(key, 0.0) + (moved if i.job.unit == "dma" else self.target.cycles(i.job))
        return self.target.us(max(busy.values(), default=0.0)) >= CALL_PART * self.limit_us

    def end(self) -> None:
        """End the call; what lies on chip goes to DDR first."""
        for held in self.r.held.values():
            if held.slot is not None:
                self.r.evict(held)
        self.emitter.next_call()

    def tiles(self, task: Task) -> int:
        """How many tiles a task needs at least so that calls can end inside it; 1 where it is short enough."""
        work = task.tile(task.box) if self.limit_us else None
        if work is None:
            return 1
        moved = box_bytes(task.box, task.out.item_bytes)
        for tensor, box in zip(task.inputs, work.boxes, strict=True):
            if tensor is not None and box is not None:
                moved += box_bytes(box, tensor.item_bytes)
        us = self.target.us(max(self.target.cycles(work.job), self.target.transfer_cycles(moved)))
        if us < CALL_PART * self.limit_us:
            return 1
        return min(math.ceil(us / (TILE_PART * self.limit_us)), MOST_TILES)
