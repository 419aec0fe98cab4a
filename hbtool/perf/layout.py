"""Places the boxes of a directed graph in rows, edges going down: ranks, order inside a rank, positions.

Ranks are longest paths from the sources. An edge over several ranks gets a bend in each of them. Rows are ordered by
the mean position of their neighbours, and positions minimise the squared distance to them without overlap (isotonic
regression), a few times down and up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SWEEPS = 6
_GAP_X = 18.0
_GAP_Y = 24.0
_MARGIN = 20.0
_BEND_WIDTH = 6.0


@dataclass(frozen=True)
class Placed:
    """Where everything is.

    Attributes:
        boxes: node -> (x, y, width, height), upper left corner.
        paths: edge -> its points from the source's lower border to the target's upper border.
        width: of the whole picture.
        height: of the whole picture.
    """

    boxes: Mapping[str, tuple[float, float, float, float]]
    paths: Mapping[tuple[str, str], tuple[tuple[float, float], ...]]
    width: float
    height: float


def place_boxes(sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]]) -> Placed:
    """Place boxes.

    Args:
        sizes: node -> (width, height), sources before targets.
        edges: (source, target), from an earlier to a later node of `sizes`.
    """
    if not sizes:
        return Placed({}, {}, 2 * _MARGIN, 2 * _MARGIN)
    edges = list(dict.fromkeys(edges))
    ranks = _ranks(sizes, edges)
    graph = _Rows(sizes, edges, ranks)
    graph.order()
    return graph.placed()


def _ranks(sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    before: dict[str, list[str]] = {n: [] for n in sizes}
    for source, target in edges:
        before[target].append(source)
    ranks: dict[str, int] = {}
    for node in sizes:
        ranks[node] = max((ranks[s] + 1 for s in before[node]), default=0)
    return ranks


class _Rows:
    """Boxes and bends by rank."""

    def __init__(
        self, sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]], ranks: dict[str, int]
    ) -> None:
        self.sizes = dict(sizes)
        self.edges = edges
        self.rows: list[list[str]] = [[] for _ in range(max(ranks.values()) + 1)]
        self.up: dict[str, list[str]] = {n: [] for n in sizes}
        self.down: dict[str, list[str]] = {n: [] for n in sizes}
        self.bends: dict[tuple[str, str], list[str]] = {}
        self.x: dict[str, float] = {}
        for node in sizes:
            self.rows[ranks[node]].append(node)
        for number, (source, target) in enumerate(edges):
            chain = [source]
            for rank in range(ranks[source] + 1, ranks[target]):
                bend = f"\0{number}/{rank}"
                self.sizes[bend] = (_BEND_WIDTH, 0.0)
                self.up[bend], self.down[bend] = [], []
                self.rows[rank].append(bend)
                chain.append(bend)
            self.bends[source, target] = chain[1:]
            for upper, lower in zip(chain, [*chain[1:], target], strict=True):
                self.down[upper].append(lower)
                self.up[lower].append(upper)

    def order(self) -> None:
        """Positions in every row, from repeated sweeps."""
        for row in self.rows:
            self._pack(row, {n: float(i) for i, n in enumerate(row)})
        for sweep in range(_SWEEPS):
            going_down = sweep % 2 == 0
            neighbours = self.up if going_down else self.down
            for row in self.rows if going_down else reversed(self.rows):
                wanted = {n: self._mean(neighbours[n], self.x[n]) for n in row}
                row.sort(key=lambda n: wanted[n])
                self._pack(row, wanted)
        for row in reversed(self.rows):
            self._pack(row, {n: self._mean(self.up[n] + self.down[n], self.x[n]) for n in row})

    def _mean(self, nodes: list[str], otherwise: float) -> float:
        return sum(self.x[n] for n in nodes) / len(nodes) if nodes else otherwise

    def _pack(self, row: Sequence[str], wanted: Mapping[str, float]) -> None:
        """Centres of a row: as near to `wanted` as its order and the gaps allow (least squares)."""
        offsets, at = [], 0.0
        for before, node in zip([None, *row], row, strict=False):
            if before is not None:
                at += (self.sizes[before][0] + self.sizes[node][0]) / 2 + _GAP_X
            offsets.append(at)
        levels: list[tuple[float, int]] = []
        for node, offset in zip(row, offsets, strict=True):
            levels.append((wanted[node] - offset, 1))
            while len(levels) > 1 and levels[-2][0] > levels[-1][0]:
                (a, n), (b, m) = levels[-2], levels[-1]
                levels[-2:] = [((a * n + b * m) / (n + m), n + m)]
        flat = [level for level, count in levels for _ in range(count)]
        for node, offset, level in zip(row, offsets, flat, strict=True):
            self.x[node] = level + offset

    def placed(self) -> Placed:
        """The finished picture."""
        left = min(self.x[n] - self.sizes[n][0] / 2 for row in self.rows for n in row) - _MARGIN
        right = max(self.x[n] + self.sizes[n][0] / 2 for row in self.rows for n in row) + _MARGIN
        centre_y: dict[str, float] = {}
        top = _MARGIN
        for row in self.rows:
            height = max(self.sizes[n][1] for n in row)
            for node in row:
                centre_y[node] = top + height / 2
            top += height + _GAP_Y
        boxes = {
            n: (self.x[n] - left - w / 2, centre_y[n] - h / 2, w, h)
            for n, (w, h) in self.sizes.items()
            if not n.startswith("\0")
        }
        paths = {}
        for source, target in self.edges:
            bends = tuple((self.x[b] - left, centre_y[b]) for b in self.bends[source, target])
            start = (self.x[source] - left, boxes[source][1] + boxes[source][3])
            end = (self.x[target] - left, boxes[target][1])
            paths[source, target] = (start, *bends, end)
        return Placed(boxes, paths, right - left, top - _GAP_Y + _MARGIN)
