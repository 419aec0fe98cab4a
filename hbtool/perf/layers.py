"""What every layer of a program costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hbtool.artifact.program import LayerInfo, Program
from hbtool.perf.critical import RESOURCE_NAMES, Attribution, Resource
from hbtool.perf.timeline import Timeline
from hbtool.target.target import Target

HIDDEN = "hidden behind other layers"
FREE = "free (addresses only)"


@dataclass(frozen=True)
class LayerCost:
    """One layer of a segment; times in microseconds.

    Attributes:
        number: position among the segment's layers.
        name: float node it was lowered from.
        op: integer operator.
        ops: arithmetic operations, 2 per multiply-accumulate, padding and recomputation not counted.
        shape: shape of its output.
        aligned_shape: the same with the padding of the machine's layout.
        bytes: bytes of the output.
        aligned_bytes: bytes with padding.
        compute_us: time on the compute engines of the busiest core, DDR not counted.
        load_us: time its loads keep the memory busy.
        store_us: time its stores keep the memory busy.
        loaded_bytes: bytes read from DDR.
        stored_bytes: bytes written to DDR.
        start_us: start of its first instruction, None if it has none.
        end_us: end of its last instruction.
        latency_us: its part of the latency; the parts of all layers and the launches add up to the latency.
        limit: the resource most of that part is spent on, or why there is none.
    """

    number: int
    name: str
    op: str
    ops: int
    shape: tuple[int, ...]
    aligned_shape: tuple[int, ...]
    bytes: int
    aligned_bytes: int
    compute_us: float
    load_us: float
    store_us: float
    loaded_bytes: int
    stored_bytes: int
    start_us: float | None
    end_us: float | None
    latency_us: float
    limit: str


def layer_costs(program: Program, target: Target, line: Timeline, parts: Attribution) -> tuple[LayerCost, ...]:
    """The cost of every layer, in the program's order."""
    sums = [_Sum() for _ in program.layers]
    own = parts.by_layer()
    for number, i in enumerate(program.instructions):
        total = sums[i.layer]
        total.first_us = min(total.first_us, line.start_us[number])
        total.last_us = max(total.last_us, line.end_us[number])
        total.loaded_bytes += i.job.loaded_bytes
        total.stored_bytes += i.job.stored_bytes
        if i.job.unit != "dma":
            total.core_us[i.core] = total.core_us.get(i.core, 0.0) + target.us(target.cycles(i.job))
    return tuple(
        _cost(number, info, sums[number], target, own.get(number, {})) for number, info in enumerate(program.layers)
    )


class _Sum:
    def __init__(self) -> None:
        self.first_us, self.last_us = float("inf"), 0.0
        self.loaded_bytes = self.stored_bytes = 0
        self.core_us: dict[int, float] = {}


def _cost(number: int, info: LayerInfo, total: _Sum, target: Target, own: Mapping[Resource, float]) -> LayerCost:
    runs = total.first_us <= total.last_us
    limit = RESOURCE_NAMES[max(own, key=lambda r: own[r])] if own else HIDDEN if runs else FREE
    return LayerCost(
        number,
        info.name,
        info.op,
        2 * info.macs,
        info.shape,
        _aligned_shape(info, target),
        info.bytes,
        info.aligned_bytes,
        max(total.core_us.values(), default=0.0),
        target.us(target.transfer_cycles(total.loaded_bytes)),
        target.us(target.transfer_cycles(total.stored_bytes)),
        total.loaded_bytes,
        total.stored_bytes,
        total.first_us if runs else None,
        total.last_us if runs else None,
        sum(own.values()),
        limit,
    )


def _aligned_shape(info: LayerInfo, target: Target) -> tuple[int, ...]:
    elements = 1
    for size in info.shape:
        elements *= size
    return target.layout(info.shape, max(1, info.bytes // elements)).padded if elements else info.shape
