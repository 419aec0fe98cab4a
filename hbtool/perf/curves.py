"""Utilisation and bandwidth over time, in equal intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hbtool.artifact.program import Program
from hbtool.perf.timeline import Timeline
from hbtool.target.target import Target

MOST_INTERVALS = 200


@dataclass(frozen=True)
class Curves:
    """One value per interval.

    Attributes:
        interval_us: length of an interval (the last one may reach past the end).
        utilisation: executed multiply-accumulates over what the used cores' arrays could do, 0 to 1.
        load_bytes_per_second: bytes read from DDR in the interval, over its length.
        store_bytes_per_second: bytes written.
    """

    interval_us: float
    utilisation: tuple[float, ...]
    load_bytes_per_second: tuple[float, ...]
    store_bytes_per_second: tuple[float, ...]

    @property
    def number(self) -> int:
        """How many intervals."""
        return len(self.utilisation)


def interval_curves(program: Program, target: Target, line: Timeline) -> Curves:
    """The curves of a program: work spread evenly over the time an instruction works on it."""
    interval = _round_interval(line.total_us)
    count = max(1, math.ceil(line.total_us / interval - 1e-9))
    edges = np.linspace(0.0, count * interval, count + 1)
    start, end = np.asarray(line.start_us), np.asarray(line.end_us)
    jobs = [i.job for i in program.instructions]
    moved = np.array([j.loaded_bytes + j.stored_bytes for j in jobs], np.float64)
    # A transfer moves its bytes at full bandwidth just before its end; before that it waits.
    moving = np.maximum(start, end - moved / target.ddr_bytes_per_second * 1e6)
    macs = _spread(edges, start, end, np.array([j.macs for j in jobs], np.float64))
    loaded = _spread(edges, moving, end, np.array([j.loaded_bytes for j in jobs], np.float64))
    stored = _spread(edges, moving, end, np.array([j.stored_bytes for j in jobs], np.float64))
    peak = target.macs_per_cycle * program.cores * target.clock_hz * interval / 1e6
    return Curves(
        interval,
        tuple((macs / peak).tolist()),
        tuple((loaded / interval * 1e6).tolist()),
        tuple((stored / interval * 1e6).tolist()),
    )


def _round_interval(total_us: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that needs at most `MOST_INTERVALS` intervals."""
    if total_us <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(total_us / MOST_INTERVALS))
    return next(power * n for n in (1, 2, 5, 10, 20) if total_us / (power * n) <= MOST_INTERVALS)


def _spread(
    edges: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64], amount: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How much of `amount`, spread over [start, end], falls between neighbouring edges."""
    chosen = amount > 0
    start, end, amount = start[chosen], end[chosen], amount[chosen]
    length = np.maximum(end - start, 1e-9)
    until = [float((amount * np.clip((edge - start) / length, 0.0, 1.0)).sum()) for edge in edges]
    return np.diff(np.asarray(until))
