"""Hands out on-chip addresses in issue order and remembers who used them last.

Engines run ahead of each other, so an address may be handed out again while its last user has yet to run. The new user
inherits these users as dependencies. Of the gaps that fit, short-lived buffers (weights, tiles) take the one that was
last used longest ago, so that their loads need not wait; long-lived results lie at the bottom.
"""

from __future__ import annotations

import bisect
from collections import deque
from dataclasses import dataclass, field

LastUse = dict[int, int]
"""engine number -> number of its last instruction that touched the bytes."""


@dataclass(eq=False)
class Block:
    """A stretch of on-chip memory.

    Attributes:
        start: first byte.
        stop: past the last byte.
        last: instructions that must be finished before the block is written for the first time, and while it is in
            use those that touched it.
    """

    start: int
    stop: int
    last: LastUse = field(default_factory=dict)


class Memory:
    """Free and used stretches of an address space of `size` bytes."""

    def __init__(self, size: int, align: int) -> None:
        self.size, self.align = size, align
        self.peak = 0
        self.used = 0
        self._free: list[tuple[int, int]] = [(0, size - size % align)] if size >= align else []
        self._past: list[Block] = []  # released stretches with their last users, sorted, not overlapping

    @property
    def free_bytes(self) -> int:
        """Bytes not in use (perhaps not in one piece)."""
        return sum(stop - start for start, stop in self._free)

    def rounded(self, size: int) -> int:
        """`size` as a block takes it."""
        return -(-max(size, 1) // self.align) * self.align

    def allocate(self, size: int, long_lived: bool) -> Block | None:
        """A block of `size` bytes, None if no gap is large enough."""
        need = self.rounded(size)
        best: tuple[int, int, int] | None = None
        for index, (start, stop) in enumerate(self._free):
            if stop - start < need:
                continue
            if long_lived:
                best = (0, index, start)
                break
            newest, at = self._longest_unused(start, stop, need)
            score = (newest, index, at)
            best = score if best is None or score < best else best
        if best is None:
            return None
        _, index, at = best
        start, stop = self._free.pop(index)
        if at + need < stop:
            self._free.insert(index, (at + need, stop))
        if start < at:
            self._free.insert(index, (start, at))
        self.used += need
        self.peak = max(self.peak, at + need)
        return Block(at, at + need, self._inherit(at, at + need))

    def release(self, block: Block) -> None:
        """Give a block back; `block.last` says who used it."""
        self.used -= block.stop - block.start
        index = bisect.bisect(self._free, (block.start, block.stop))
        start, stop = block.start, block.stop
        if index < len(self._free) and self._free[index][0] == stop:
            stop = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == start:
            index -= 1
            start = self._free.pop(index)[0]
        self._free.insert(index, (start, stop))
        bisect.insort(self._past, block, key=lambda b: b.start)

    def fits(self, size: int) -> bool:
        """Whether a block of `size` bytes could be had now."""
        need = self.rounded(size)
        return any(stop - start >= need for start, stop in self._free)

    def _longest_unused(self, start: int, stop: int, need: int) -> tuple[int, int]:
        """(last use, address) of the `need` bytes within [start, stop) that were used last longest ago.

        Two pointers over the stretches of past use, once for the places that begin where a stretch begins and once for
        those that end where one ends: others cannot be better.
        """
        edges, newest = self._stretches(start, stop)
        best = (max(newest) + 1, start)
        largest: deque[int] = deque()  # stretches of the window that no later one of it outdoes
        first = last = 0
        for at in sorted({e for e in edges if e <= stop - need} | {e - need for e in edges if e - need >= start}):
            while last < len(newest) and edges[last] < at + need:
                while largest and newest[largest[-1]] <= newest[last]:
                    largest.pop()
                largest.append(last)
                last += 1
            while edges[first + 1] <= at:
                first += 1
            while largest[0] < first:
                largest.popleft()
            best = min(best, (newest[largest[0]], at))
        return best

    def _stretches(self, start: int, stop: int) -> tuple[list[int], list[int]]:
        """Edges of the stretches that [start, stop) divides into by past use, and the last use of each (-1: none)."""
        edges, newest = [start], []
        for block in self._overlapping(start, stop):
            low, high = max(block.start, start), min(block.stop, stop)
            if low > edges[-1]:
                edges.append(low)
                newest.append(-1)
            edges.append(high)
            newest.append(max(block.last.values(), default=-1))
        if edges[-1] < stop:
            edges.append(stop)
            newest.append(-1)
        return edges, newest

    def _overlapping(self, start: int, stop: int) -> list[Block]:
        first = max(bisect.bisect(self._past, start, key=lambda b: b.start) - 1, 0)
        last = bisect.bisect_left(self._past, stop, key=lambda b: b.start)
        return [b for b in self._past[first:last] if b.stop > start and b.start < stop]

    def _inherit(self, start: int, stop: int) -> LastUse:
        """Take [start, stop) out of the past; returns the last users of it."""
        last: LastUse = {}
        for old in self._overlapping(start, stop):
            for engine, number in old.last.items():
                last[engine] = max(last.get(engine, -1), number)
            self._past.remove(old)
            if old.start < start:
                bisect.insort(self._past, Block(old.start, start, old.last), key=lambda b: b.start)
            if old.stop > stop:
                bisect.insort(self._past, Block(stop, old.stop, old.last), key=lambda b: b.start)
        return last
