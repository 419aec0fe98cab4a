"""Writes instructions: addresses of operands, and the dependencies that their boxes ask for.

An instruction must wait for whoever last wrote what it reads, and for whoever last touched what it writes. Boxes are
compared, not bytes: parts of a join interleave in memory and still do not touch. A dependency is left out where the
order of the engines and other dependencies already imply it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hbtool.artifact.program import ENGINES, ON_CHIP, Engine, Instruction, View
from hbtool.compiler.allocate import Block, LastUse
from hbtool.ops.op import Box
from hbtool.target.job import Job


@dataclass(eq=False)
class Slot:
    """A piece of memory that holds (part of) a tensor, and the accesses to it.

    Attributes:
        space: `ON_CHIP` or the number of a DDR region plus one.
        base: byte where index `origin` lies.
        strides: bytes per step, per axis.
        origin: index of the tensor that lies at `base`.
        padded: sizes with padding, per axis (what a transfer of a whole axis moves).
        shape: sizes without.
        block: the on-chip block it lies in.
        inherited: last users of the bytes before the slot existed; every write waits for them.
    """

    space: int
    base: int
    strides: tuple[int, ...]
    origin: tuple[int, ...]
    shape: tuple[int, ...]
    padded: tuple[int, ...]
    block: Block | None = None
    inherited: LastUse = field(default_factory=dict)
    writes: list[tuple[Box, int]] = field(default_factory=list)
    reads: list[tuple[Box, int]] = field(default_factory=list)

    def view(self, box: Box, type_: str) -> View:
        """The elements of a box."""
        offset = self.base + sum((b[0] - o) * step for b, o, step in zip(box, self.origin, self.strides, strict=True))
        return View(self.space, offset, type_, tuple(b[1] - b[0] for b in box), self.strides)

    def moved_bytes(self, box: Box, item_bytes: int) -> int:
        """Bytes a transfer of the box moves: an axis taken whole brings its padding along."""
        count = item_bytes
        for (low, high), size, padded in zip(box, self.shape, self.padded, strict=True):
            count *= padded if high - low == size else high - low
        return count


@dataclass(frozen=True)
class Operand:
    """An operand of an instruction: the view, and which box of which slot it touches."""

    view: View
    slot: Slot
    box: Box


class Emitter:
    """The instruction list under construction, for `cores` cores."""

    def __init__(self, cores: int) -> None:
        self.instructions: list[Instruction] = []
        self.call = 0
        self._engines = len(ENGINES) * cores
        self._queue = [-1] * self._engines  # last instruction of each engine
        self._clock: list[list[int]] = []  # instruction -> per engine: last one known to be finished when it is
        self._engine_of: list[int] = []
        self.call_start = 0

    def add(
        self,
        engine: Engine,
        core: int,
        op: str,
        attributes: Mapping[str, Any],
        inputs: Sequence[Operand | None],
        outputs: Sequence[Operand],
        layer: int,
        job: Job,
    ) -> int:
        """Append an instruction; returns its number."""
        number = len(self.instructions)
        lane = core * len(ENGINES) + ENGINES.index(engine)
        after = self._order(lane, self._wanted(inputs, outputs), number)
        self.instructions.append(
            Instruction(
                engine,
                core,
                op,
                attributes,
                tuple(None if o is None else o.view for o in inputs),
                tuple(o.view for o in outputs),
                after,
                layer,
                job,
                self.call,
            )
        )
        for operand in inputs:
            if operand is not None:
                _note_read(operand, number, lane)
        for operand in outputs:
            _note_write(operand, number, lane)
        return number

    def _wanted(self, inputs: Sequence[Operand | None], outputs: Sequence[Operand]) -> dict[int, int]:
        """Per engine the last instruction whose accesses conflict."""
        others: list[int] = []
        for operand in inputs:
            if operand is not None:
                others += [writer for box, writer in operand.slot.writes if _meet(box, operand.box)]
        for operand in outputs:
            slot = operand.slot
            others += [other for box, other in slot.writes if _meet(box, operand.box)]
            others += [other for box, other in slot.reads if _meet(box, operand.box)]
            others += slot.inherited.values()
        wanted: dict[int, int] = {}
        for other in others:
            at = self._engine_of[other]
            wanted[at] = max(wanted.get(at, -1), other)
        return wanted

    def next_call(self) -> None:
        """Start another function call: everything before it is finished."""
        if len(self.instructions) > self.call_start:
            self.call += 1
            self.call_start = len(self.instructions)

    def _order(self, lane: int, wanted: dict[int, int], number: int) -> tuple[int, ...]:
        """The dependencies that are not implied; records what is finished when the instruction is."""
        before = self._queue[lane]
        clock = list(self._clock[before]) if before >= 0 else [-1] * self._engines
        clock = [max(c, self.call_start - 1) for c in clock]
        after = []
        for other in sorted(wanted.values(), reverse=True):
            if other <= clock[self._engine_of[other]]:
                continue
            after.append(other)
            clock = [max(a, b) for a, b in zip(clock, self._clock[other], strict=True)]
        clock[lane] = number
        self._queue[lane] = number
        self._clock.append(clock)
        self._engine_of.append(lane)
        return tuple(sorted(after))


def _meet(a: Box, b: Box) -> bool:
    for (low, high), (other_low, other_high) in zip(a, b, strict=True):
        if low >= other_high or other_low >= high:
            return False
    return True


def _covers(a: Box, b: Box) -> bool:
    for (low, high), (other_low, other_high) in zip(a, b, strict=True):
        if other_low < low or high < other_high:
            return False
    return True


def _note_read(operand: Operand, number: int, lane: int) -> None:
    slot = operand.slot
    slot.reads.append((operand.box, number))
    if slot.block is not None:
        slot.block.last[lane] = number


def _note_write(operand: Operand, number: int, lane: int) -> None:
    slot = operand.slot
    # Whoever comes later waits for this write, which waited for them.
    slot.writes = [w for w in slot.writes if not _covers(operand.box, w[0])]
    slot.reads = [r for r in slot.reads if not _covers(operand.box, r[0])]
    slot.writes.append((operand.box, number))
    if slot.block is not None:
        slot.block.last[lane] = number


__all__ = ["ON_CHIP", "Emitter", "Operand", "Slot"]
