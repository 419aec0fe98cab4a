"""Decides which neighbouring layers run together, band of rows after band of rows, so that what lies between them never
leaves the chip.

Only where memory is short: a stretch of layers whose live tensors do not fit is cut into groups by dynamic programming
over DDR traffic and the fixed costs of more, smaller instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hbtool.compiler.addresses import Addresses, Storage
from hbtool.compiler.layers import Layer, Net
from hbtool.ops.op import Box, whole
from hbtool.target.target import Target

LONGEST_GROUP = 40
ROWS = 2
"""The axis of [N, C, H, W] that bands cut."""

RESIDENT_PART = 4
"""A tensor of at most 1 / this of the memory is expected to stay on chip between groups."""


@dataclass(frozen=True)
class Group:
    """Layers [first, last] run together in `bands` bands (1: one after another, each as a whole)."""

    first: int
    last: int
    bands: int


@dataclass(frozen=True)
class FuseOptions:
    """What the plan favours.

    Attributes:
        traffic_weight: cycles per byte of DDR traffic, relative to the target's bandwidth.
        fixed_weight: weight of the fixed costs of instructions.
        memory_part: part of the memory that buffers of a group may take.
        pressure: part of the memory above which live tensors are too many.
    """

    traffic_weight: float = 1.0
    fixed_weight: float = 1.0
    memory_part: float = 0.75
    pressure: float = 0.8


def plan_groups(net: Net, addresses: Addresses, target: Target, memory_bytes: int, options: FuseOptions) -> list[Group]:
    """Groups that cover all layers in order."""
    return _Planner(net, addresses, target, memory_bytes, options).groups()


def bandable(layer: Layer, addresses: Addresses) -> bool:
    """Whether a layer can produce some rows of [N, C, H, W] from some rows of its operands."""
    if len(layer.outputs) != 1 or len(layer.out.shape) != 4 or layer.out.shape[ROWS] < 2:
        return False
    if any(len(t.shape) != 4 for _, t in layer.computed):
        return False
    if layer in addresses.free_layers and not _keeps_rows(layer):
        return False
    height = layer.out.shape[ROWS]
    return all(layer.tile(rows_box(layer.out.shape, a, a + 1)) is not None for a in (0, height // 2))


def _keeps_rows(layer: Layer) -> bool:
    """Whether row r of the result is row r of every operand."""
    row = layer.out.shape[ROWS] // 2
    tile = layer.tile(rows_box(layer.out.shape, row, row + 1))
    same_height = all(t.shape[ROWS] == layer.out.shape[ROWS] for _, t in layer.computed)
    return (
        tile is not None
        and same_height
        and all(layer.operand_box(tile, i)[ROWS] in ((row, row + 1), (0, 0)) for i, _ in layer.computed)
    )


def rows_box(shape: Sequence[int], low: int, high: int) -> Box:
    """All of a feature map but rows outside [low, high)."""
    full = whole(shape)
    return (*full[:ROWS], (low, high), *full[ROWS + 1 :])


@dataclass(frozen=True)
class _Reach:
    """Rows of an operand beyond the stride that one more output row needs, and the stride."""

    halo: int
    stride: int


class _Planner:
    def __init__(self, net: Net, addresses: Addresses, target: Target, memory_bytes: int, options: FuseOptions) -> None:
        self.net, self.addresses, self.target, self.options = net, addresses, target, options
        self.memory_bytes = memory_bytes
        count = len(net.layers)
        self.touched: list[list[Storage]] = []
        self.first: dict[Storage, int] = {}
        self.last: dict[Storage, int] = {}
        self.leaves: set[Storage] = set()
        for layer in net.layers:
            storages: dict[Storage, None] = {}
            for tensor in (*layer.outputs, *(t for _, t in layer.computed)):
                storage = addresses.places[tensor].storage
                storages.setdefault(storage)
                self.first.setdefault(storage, -1 if tensor.is_input else layer.number)
                self.last[storage] = layer.number
                if tensor.is_output or tensor.is_input:
                    self.leaves.add(storage)
            self.touched.append(list(storages))
        self.weights = [sum(t.bytes for _, t in layer.constants) for layer in net.layers]
        self.can = [bandable(layer, addresses) for layer in net.layers]
        self.halos = [self._halo(layer) if can else 0 for layer, can in zip(net.layers, self.can, strict=True)]
        self.live = self._live(count)

    def groups(self) -> list[Group]:
        """Hot stretches cut into groups, everything else layer by layer."""
        limit = self.memory_bytes * self.options.pressure
        result: list[Group] = []
        number, count = 0, len(self.net.layers)
        while number < count:
            stop = number
            while stop < count and self.can[stop] and self.live[stop] + min(self.weights[stop], limit / 4) > limit:
                stop += 1
            if stop - number < 2:
                stop = max(stop, number + 1)
                result += [Group(n, n, 1) for n in range(number, stop)]
            else:
                result += self._cut(number, stop)
            number = stop
        return result

    def _live(self, count: int) -> list[int]:
        """Bytes of storages between their first and last use, per layer."""
        change = [0] * (count + 1)
        for storage, first in self.first.items():
            # A graph input is read in pieces where it is too large; it does not have to be there before.
            first = max(first, 0) if first >= 0 else self.last[storage]
            change[first] += storage.layout.bytes
            change[self.last[storage] + 1] -= storage.layout.bytes
        live, total = [], 0
        for n in range(count):
            total += change[n]
            live.append(total)
        return live

    def _halo(self, layer: Layer) -> int:
        """Rows of the first operand that two neighbouring output rows share."""
        shape = layer.out.shape
        middle = shape[ROWS] // 2
        one, two = (layer.tile(rows_box(shape, a, a + 1)) for a in (middle - 1, middle))
        if one is None or two is None or not layer.computed:
            return 0
        shared = 0
        for position, _ in layer.computed:
            a, b = layer.operand_box(one, position)[ROWS], layer.operand_box(two, position)[ROWS]
            shared = max(shared, a[1] - b[0])
        return max(shared, 0)

    def _cut(self, start: int, stop: int) -> list[Group]:
        """The cheapest way to cut layers [start, stop) into groups."""
        best: list[tuple[float, Group | None]] = [(0.0, None)] * (stop - start + 1)
        for number in range(stop - 1, start - 1, -1):
            choice: tuple[float, Group | None] = (float("inf"), None)
            for last in range(number, min(stop, number + LONGEST_GROUP)):
                cost = self._cost(number, last)
                if cost is None:
                    break
                total = cost[0] + best[last + 1 - start][0]
                if total < choice[0]:
                    choice = (total, Group(number, last, cost[1]))
            best[number - start] = choice
        groups: list[Group] = []
        number = start
        while number < stop:
            group = best[number - start][1]
            assert group is not None, "a single layer always has a cost"
            groups.append(group)
            number = group.last + 1
        return groups

    def _cost(self, first: int, last: int) -> tuple[float, int] | None:
        """(cycles, bands) of a group, None where its buffers do not fit; a single layer always fits."""
        storages = {s: None for n in range(first, last + 1) for s in self.touched[n]}
        resident = traffic = 0
        rolling: list[Storage] = []
        for storage in storages:
            size = storage.layout.bytes
            inside = self.first[storage] >= first and self.last[storage] <= last and storage not in self.leaves
            if inside:
                rolling.append(storage)
                continue
            if size * RESIDENT_PART <= self.memory_bytes and storage not in self.leaves:
                resident += size
                continue
            rolling.append(storage)
            traffic += size if self.first[storage] < first else 0
            traffic += size if self.first[storage] >= first else 0
        weights = sum(self.weights[first : last + 1])
        bands = self._bands(first, last, rolling, resident + weights)
        if bands is None:
            if last > first:
                return None
            bands = 1
        if first == last:
            traffic = sum(
                s.layout.bytes
                for s in storages
                if s.layout.bytes * RESIDENT_PART > self.memory_bytes or s in self.leaves
            )
        fixed = bands * (last - first + 1) * 2 * self.target.instruction_cycles
        cycles = self.options.traffic_weight * traffic / self.target.ddr_bytes_per_cycle
        return cycles + self.options.fixed_weight * fixed, bands

    def _bands(self, first: int, last: int, rolling: list[Storage], fixed: int) -> int | None:
        """Fewest bands whose buffers fit."""
        room = self.memory_bytes * self.options.memory_part - fixed
        if room <= 0:
            return None
        reach = sum(self.halos[first : last + 1])
        heights = [self.net.layers[n].out.shape[ROWS] for n in range(first, last + 1) if self.can[n]]
        tallest = max(heights, default=1)
        bands = 2
        while bands <= tallest // 2:
            need = 0.0
            for storage in rolling:
                shape = storage.layout.shape
                height = shape[ROWS] if len(shape) == 4 else 1
                # A band, the rows it shares with the one before, and what layers behind it look ahead in the first.
                rows = height / bands + 2 + reach * height / tallest / 2
                need += 2 * storage.layout.bytes * min(rows / height, 1.0)
            if need <= room:
                return bands
            bands *= 2
        return None
