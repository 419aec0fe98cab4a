"""Decides which neighbouring layers run together, band of rows after band of rows, so that what lies between them never
leaves the chip.

Only where memory is short. A storage *stays* on chip from its first to its last use where everything alive meanwhile
fits; what does not stay is moved between DDR and chip by every layer, or group of layers, that needs it from another.
Dynamic programming over all ways to form groups finds the least time. Storages that live inside a group need no memory
of their own any more, so that others may stay: the plan is made again until nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hbtool.compiler.addresses import Addresses, Storage
from hbtool.compiler.layers import Layer, Net
from hbtool.compiler.traffic import Traffic
from hbtool.ops.op import Box, whole
from hbtool.target.target import Target

LONGEST_GROUP = 40
ROWS = 2
"""The axis of [N, C, H, W] that bands cut."""

MOST_ROUNDS = 3


@dataclass(frozen=True)
class Group:
    """Layers [first, last] run together in `bands` bands (1: one after another, each as a whole).

    Attributes:
        first: number of the first layer.
        last: number of the last one.
        bands: fewest bands.
        keep: numbers of storages that should lie on chip as a whole meanwhile, for later layers.
    """

    first: int
    last: int
    bands: int
    keep: tuple[int, ...] = ()


@dataclass(frozen=True)
class FuseOptions:
    """What the plan favours.

    Attributes:
        traffic_weight: cycles per byte of DDR traffic, relative to the target's bandwidth.
        fixed_weight: weight of the fixed costs of instructions.
        memory_part: part of the memory that buffers of a group may take.
        pressure: part of the memory that storages which stay may take.
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


class _Planner:
    def __init__(self, net: Net, addresses: Addresses, target: Target, memory_bytes: int, options: FuseOptions) -> None:
        self.net, self.target, self.options, self.memory_bytes = net, target, options, memory_bytes
        self.traffic = Traffic(net, addresses, target)
        self.weights = [sum(t.bytes for _, t in layer.constants) for layer in net.layers]
        self.can = [bandable(layer, addresses) for layer in net.layers]
        self.halos = [_halo(layer) if can else 0 for layer, can in zip(net.layers, self.can, strict=True)]
        free = addresses.free_layers
        self.compute = [0.0 if layer in free else _compute_cycles(layer, target) for layer in net.layers]
        self.staying: set[Storage] = set()

    def groups(self) -> list[Group]:
        """Groups of stretches in which something does not stay, everything else layer by layer."""
        result: list[Group] = []
        inside: set[Storage] = set()
        for _ in range(MOST_ROUNDS):
            self.staying = self._find_staying(inside)
            result = self._cut_all()
            before, inside = inside, self._inside(result)
            if inside == before:
                break
        return [group if group.bands == 1 else replace(group, keep=self._keep(group)) for group in result]

    def _keep(self, group: Group) -> tuple[int, ...]:
        touched = {s for n in range(group.first, group.last + 1) for s in self.traffic.touched[n]}
        spans = self.traffic.spans
        later = (s for s in touched & self.staying if spans[s][1] > group.last or spans[s][0] < group.first)
        return tuple(sorted(s.number for s in later))

    def _find_staying(self, inside: set[Storage]) -> set[Storage]:
        """Storages that fit on chip from first to last use, with everything else that is alive meanwhile."""
        count = len(self.net.layers)
        change = [0] * (count + 1)
        spans = {s: span for s, span in self.traffic.spans.items() if s not in inside}
        for storage, (first, last) in spans.items():
            change[first] += storage.layout.bytes
            change[last + 1] -= storage.layout.bytes
        limit = self.memory_bytes * self.options.pressure
        over, total, number_over = [0], 0, 0
        for n in range(count):
            total += change[n]
            number_over += total + min(self.weights[n], limit / 4) > limit
            over.append(number_over)
        return {s for s, (first, last) in spans.items() if over[last + 1] == over[first]}

    def _inside(self, groups: Sequence[Group]) -> set[Storage]:
        group_of = [group for group in groups for _ in range(group.first, group.last + 1)]
        return {
            s
            for s, (first, last) in self.traffic.spans.items()
            if group_of[first].bands > 1 and group_of[first] is group_of[last] and s not in self.traffic.crossing
        }

    def _cut_all(self) -> list[Group]:
        result: list[Group] = []
        number, count = 0, len(self.net.layers)
        while number < count:
            stop = number
            while stop < count and self.can[stop]:
                stop += 1
            short = any(s not in self.staying for n in range(number, stop) for s in self.traffic.touched[n])
            if stop - number > 1 and short:
                result += self._cut(number, stop)
            else:
                stop = max(stop, number + 1)
                result += [Group(n, n, 1) for n in range(number, stop)]
            number = stop
        return result

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
        bands = 1
        if last > first:
            found = self._bands(first, last)
            if found is None:
                return None
            bands = found
        moved = self.traffic.moved_bytes(first, last, self.staying)
        transfer = self.options.traffic_weight * moved / self.target.ddr_bytes_per_cycle
        compute = sum(self.compute[first : last + 1])
        fixed = (bands - 1) * (last - first + 1) * 2 * self.target.instruction_cycles
        work = compute + self.options.fixed_weight * fixed
        return max(work, transfer) + 0.2 * min(work, transfer), bands

    def _bands(self, first: int, last: int) -> int | None:
        """Fewest bands whose buffers fit beside what stays on chip."""
        rolling, staying = self.traffic.rolling(first, last, self.staying)
        weights = sum(self.weights[first : last + 1])
        room = self.memory_bytes * self.options.memory_part - staying - weights
        if room <= 0:
            return None
        reach = sum(self.halos[first : last + 1])
        heights = [self.net.layers[n].out.shape[ROWS] for n in range(first, last + 1)]
        tallest = max(heights)
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


def _halo(layer: Layer) -> int:
    """Rows of an operand that two neighbouring output rows share."""
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


def _compute_cycles(layer: Layer, target: Target) -> float:
    tile = layer.tile(whole(layer.out.shape))
    return 0.0 if tile is None else float(target.cycles(layer.job(tile, layer.out.shape)))
