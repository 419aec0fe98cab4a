"""Which layer and which resource every microsecond of the latency belongs to.

The chain is followed from the last instruction back to the launch: an instruction waits for whoever released it (an
operand, its engine, or the transfer that kept the memory busy). The parts add up to the latency, so a layer's part is
what the frame would win at most if the layer cost nothing; a layer without a part is hidden behind others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from hbtool.artifact.program import Instruction, Program
from hbtool.perf.timeline import Timeline
from hbtool.target.target import Target

Resource = Literal["matrix", "vector", "load", "store", "latency", "launch", "wait"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)

RESOURCE_NAMES: Mapping[Resource, str] = {
    "matrix": "multiply-accumulate array",
    "vector": "vector unit",
    "load": "DDR load bandwidth",
    "store": "DDR store bandwidth",
    "latency": "DDR latency",
    "launch": "call launch",
    "wait": "waiting",
}

NO_LAYER = -1
"""Layer of launches."""

_EPSILON_US = 1e-6


@dataclass(frozen=True)
class Attribution:
    """The latency in parts.

    Attributes:
        us: (layer number or `NO_LAYER`, resource) -> microseconds.
    """

    us: Mapping[tuple[int, Resource], float]

    def by_resource(self) -> dict[Resource, float]:
        """Microseconds per resource, all resources named."""
        total = dict.fromkeys(RESOURCES, 0.0)
        for (_, resource), us in self.us.items():
            total[resource] += us
        return total

    def by_layer(self) -> dict[int, dict[Resource, float]]:
        """Microseconds per layer number (or `NO_LAYER`) and resource, only what is not zero."""
        found: dict[int, dict[Resource, float]] = {}
        for (number, resource), us in self.us.items():
            found.setdefault(number, {})[resource] = us
        return found


def attribute_latency(program: Program, target: Target, line: Timeline) -> Attribution:
    """The latency of a program in parts per layer and resource; the parts add up to `line.total_us`."""
    parts: dict[tuple[int, Resource], float] = {}
    begin, first = 0.0, 0
    instructions = program.instructions
    for call_us in line.call_us:
        last = first
        while last < len(instructions) and instructions[last].call == instructions[first].call:
            last += 1
        _Walk(instructions, first, last, target, line, parts).back(begin, begin + call_us)
        begin, first = begin + call_us, last
    return Attribution(parts)


class _Walk:
    """One function call, from its end to its launch."""

    def __init__(
        self,
        instructions: Sequence[Instruction],
        first: int,
        last: int,
        target: Target,
        line: Timeline,
        parts: dict[tuple[int, Resource], float],
    ) -> None:
        self.instructions, self.first, self.last = instructions, first, last
        self.line, self.parts = line, parts
        self.latency_us = target.us(target.dma_latency_cycles)
        self.launch_us = target.launch_us
        self.transfer_us = {
            n: target.us(target.transfer_cycles(moved))
            for n in range(first, last)
            if (moved := instructions[n].job.loaded_bytes + instructions[n].job.stored_bytes)
        }
        self.transfers = sorted(self.transfer_us, key=lambda n: line.end_us[n])
        self.transfer_ends = [line.end_us[n] for n in self.transfers]
        self.before: dict[int, int] = {}
        queue: dict[tuple[str, int], int] = {}
        for n in range(first, last):
            key = (instructions[n].engine, instructions[n].core)
            if key in queue:
                self.before[n] = queue[key]
            queue[key] = n

    def back(self, begin_us: float, end_us: float) -> None:
        """Fill the parts of the call that runs from `begin_us` to `end_us`."""
        floor = begin_us + self.launch_us
        now = end_us
        at: int | None = max(range(self.first, self.last), key=lambda n: self.line.end_us[n])
        seen: set[int] = set()
        while at is not None and at not in seen:
            seen.add(at)
            self._add(at, "wait", now - self.line.end_us[at])
            now = min(now, self.line.end_us[at])
            since = min(now, self._since(at))
            self._spend(at, now - since)
            now, at = since, self._released_by(at)
        self._add(None, "wait", now - floor)
        self._add(None, "launch", floor - begin_us)

    def _since(self, n: int) -> float:
        """When the instruction began to use what it uses (a transfer that waited for the memory: after the wait)."""
        if not self._waited_for_memory(n):
            return self.line.start_us[n]
        return self.line.end_us[n] - self.transfer_us[n]

    def _waited_for_memory(self, n: int) -> bool:
        own = self.transfer_us.get(n)
        if own is None:
            return False
        return self.line.end_us[n] - own > self.line.start_us[n] + self.latency_us + _EPSILON_US

    def _released_by(self, n: int) -> int | None:
        if self._waited_for_memory(n):
            holder = bisect_right(self.transfer_ends, self._since(n) + _EPSILON_US) - 1
            if holder >= 0 and self.transfers[holder] != n:
                return self.transfers[holder]
        candidates = [(self.line.end_us[a], a) for a in self.instructions[n].after if a >= self.first]
        if n in self.before:
            prior = self.before[n]
            overlap = self.latency_us if prior in self.transfer_us else 0.0
            candidates.append((self.line.end_us[prior] - overlap, prior))
        return max(candidates)[1] if candidates else None

    def _spend(self, n: int, us: float) -> None:
        if n not in self.transfer_us:
            self._add(n, "matrix" if self.instructions[n].job.unit == "matrix" else "vector", us)
            return
        moving = min(us, self.transfer_us[n])
        self._add(n, "load" if self.instructions[n].job.loaded_bytes else "store", moving)
        self._add(n, "latency", us - moving)

    def _add(self, n: int | None, resource: Resource, us: float) -> None:
        if us > 0:
            key = (NO_LAYER if n is None else self.instructions[n].layer, resource)
            self.parts[key] = self.parts.get(key, 0.0) + us
