"""When every instruction of a program starts and ends: the latency hbtool reports is the end of the last one.

The engines and dependencies are the program's; the cycles are the target's. Loads and stores of all cores share the
DDR bandwidth: one transfer at a time keeps the memory busy, while the latency in front of it overlaps with others.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from hbtool.artifact.program import ENGINES, Engine, Instruction, Program
from hbtool.target.target import Target


@dataclass(frozen=True)
class Timeline:
    """The program in time.

    Attributes:
        start_us: start of each instruction, microseconds from the start of the first call.
        end_us: its end.
        call_us: length of each function call, launch included.
        total_us: end of everything.
        loaded_bytes: bytes read from DDR.
        stored_bytes: bytes written to DDR.
        busy_us: (engine, core) -> time it was busy.
        macs: multiply-accumulates executed.
        utilisation: macs over what the used cores' arrays could do in `total_us`.
    """

    start_us: tuple[float, ...]
    end_us: tuple[float, ...]
    call_us: tuple[float, ...]
    total_us: float
    loaded_bytes: int
    stored_bytes: int
    busy_us: dict[tuple[Engine, int], float]
    macs: int
    utilisation: float

    @property
    def ddr_bytes(self) -> int:
        """Bytes moved to and from DDR."""
        return self.loaded_bytes + self.stored_bytes


def timeline(program: Program, target: Target) -> Timeline:
    """The program on the engines of `target`."""
    instructions = program.instructions
    start, end = [0.0] * len(instructions), [0.0] * len(instructions)
    clock = 0.0
    launch = target.launch_us * target.clock_hz / 1e6
    call_cycles: list[float] = []
    first = 0
    while first < len(instructions):
        last = first
        while last < len(instructions) and instructions[last].call == instructions[first].call:
            last += 1
        clock += launch
        finished = _run_call(instructions, first, last, target, clock, start, end)
        call_cycles.append(finished - clock + launch)
        clock, first = finished, last
    busy: dict[tuple[Engine, int], float] = {}
    for i, s, e in zip(instructions, start, end, strict=True):
        key = (i.engine, i.core)
        busy[key] = busy.get(key, 0.0) + target.us(e - s)
    macs = sum(i.job.macs for i in instructions)
    peak = target.macs_per_cycle * program.cores * clock
    return Timeline(
        tuple(target.us(s) for s in start),
        tuple(target.us(e) for e in end),
        tuple(target.us(c) for c in call_cycles),
        target.us(clock),
        sum(i.job.loaded_bytes for i in instructions),
        sum(i.job.stored_bytes for i in instructions),
        busy,
        macs,
        macs / peak if peak else 0.0,
    )


def _run_call(
    instructions: Sequence[Instruction],
    first: int,
    last: int,
    target: Target,
    clock: float,
    start: list[float],
    end: list[float],
) -> float:
    """Fill `start` and `end` of instructions [first, last) in cycles; returns when the last one ends."""
    queues: dict[tuple[Engine, int], list[int]] = {}
    for index in range(last - 1, first - 1, -1):
        i = instructions[index]
        queues.setdefault((i.engine, i.core), []).append(index)
    free = dict.fromkeys(queues, clock)
    ddr_free = finished = clock
    done: set[int] = set()
    waiting: dict[int, list[tuple[Engine, int]]] = {}
    ready: list[tuple[float, int, tuple[Engine, int]]] = []

    def offer(key: tuple[Engine, int]) -> None:
        """Put the head of a queue into the ready heap once everything before it is finished."""
        if not queues[key]:
            return
        index = queues[key][-1]
        missing = next((a for a in instructions[index].after if a >= first and a not in done), None)
        if missing is not None:
            waiting.setdefault(missing, []).append(key)
            return
        begin = max([free[key], *(end[a] for a in instructions[index].after if a >= first)])
        heapq.heappush(ready, (begin, index, key))

    for key in sorted(queues, key=lambda k: (k[1], ENGINES.index(k[0]))):
        offer(key)
    while ready:
        begin, index, key = heapq.heappop(ready)
        queues[key].pop()
        job = instructions[index].job
        stop = begin + (target.cycles(job) if job.unit != "dma" else 0)
        moved = job.loaded_bytes + job.stored_bytes
        if moved:
            ddr_free = max(begin + target.dma_latency_cycles, ddr_free) + target.transfer_cycles(moved)
            stop = max(stop, ddr_free)
        start[index], end[index] = begin, stop
        # A DMA engine takes its next transfer while the latency of that one still overlaps with this one's bytes.
        free[key] = max(begin, stop - target.dma_latency_cycles) if job.unit == "dma" else stop
        finished = max(finished, stop)
        done.add(index)
        offer(key)
        for other in waiting.pop(index, ()):
            offer(other)
    return finished
