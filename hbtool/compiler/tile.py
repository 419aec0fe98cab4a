"""Cuts the work of a layer into tiles: which boxes, in which order, and what they cost in memory and traffic."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hbtool.artifact.program import COPY, Engine
from hbtool.compiler.layers import Layer, Tensor, TileWork, sizes
from hbtool.ops.op import Box, whole
from hbtool.target.job import Job, channels_of
from hbtool.target.target import Target


@dataclass(frozen=True, eq=False)
class Task:
    """Something to compute into a box of a tensor.

    Attributes:
        layer: the layer it belongs to.
        op: operation name.
        engine: `matrix` or `vector`.
        inputs: operands.
        out: the tensor it writes.
        box: the part of it that it writes.
        tile: box of `out` -> work, None where the operator cannot be cut like that.
    """

    layer: Layer
    op: str
    engine: Engine
    inputs: tuple[Tensor | None, ...]
    out: Tensor
    box: Box
    tile: Callable[[Box], TileWork | None]

    @property
    def constants(self) -> list[tuple[int, Tensor]]:
        """(position, tensor) of constant operands."""
        return [(i, t) for i, t in enumerate(self.inputs) if t is not None and t.data is not None]

    @property
    def computed(self) -> list[tuple[int, Tensor]]:
        """(position, tensor) of the others."""
        return [(i, t) for i, t in enumerate(self.inputs) if t is not None and t.data is None]


def layer_task(layer: Layer) -> Task:
    """The task of computing a layer's (only) result."""
    whole_box = whole(layer.out.shape)
    full = layer.work(whole_box)
    assert full is not None, "a layer of one result always runs whole"
    unit: Engine = "matrix" if full.job.unit == "matrix" else "vector"
    return Task(layer, layer.op.name, unit, layer.inputs, layer.out, whole_box, layer.work)


def copy_task(layer: Layer, source: Tensor, out: Tensor, at: Box) -> Task:
    """The task of copying `source` into box `at` of `out`."""

    def tile(box: Box) -> TileWork:
        inner = tuple((low - a[0], high - a[0]) for (low, high), a in zip(box, at, strict=True))
        count = 1
        for low, high in box:
            count *= high - low
        channels = min(channels_of(sizes(box)), channels_of(source.shape))
        return TileWork((inner,), {}, Job("vector", vector_ops=count, bits=8 * source.item_bytes, channels=channels))

    return Task(layer, COPY, "vector", (source,), out, at, tile)


@dataclass(frozen=True)
class Grid:
    """A way to cut a box: pieces along its axes, and which axis varies fastest.

    Attributes:
        pieces: pieces per axis of the output.
        channels_outer: channels vary slowest (weights stay, inputs come again) instead of fastest.
    """

    pieces: tuple[int, ...]
    channels_outer: bool

    @property
    def count(self) -> int:
        """Number of tiles."""
        n = 1
        for p in self.pieces:
            n *= p
        return n


def axes_of(rank: int) -> tuple[int, int]:
    """(row axis, channel axis) of a tensor; the same axis where there is only one."""
    if rank >= 4:
        return 2, 1
    return (max(rank - 2, 0), rank - 1)


def boxes(box: Box, grid: Grid, steps: Sequence[int]) -> Iterator[Box]:
    """The tiles of a box in order; cuts lie at multiples of `steps` where sizes allow."""
    rank = len(box)
    if rank == 0:
        yield box
        return
    cuts = [_cut(side, pieces, step) for side, pieces, step in zip(box, grid.pieces, steps, strict=True)]
    _, channel = axes_of(rank)
    others = [a for a in range(rank) if a != channel]
    order = [channel, *others] if grid.channels_outer else [*others, channel]
    for combination in itertools.product(*(cuts[a] for a in order)):
        tile: list[tuple[int, int]] = [(0, 0)] * rank
        for axis, side in zip(order, combination, strict=True):
            tile[axis] = side
        yield tuple(tile)


@lru_cache(maxsize=4096)
def _cut(side: tuple[int, int], pieces: int, step: int) -> tuple[tuple[int, int], ...]:
    low, high = side
    size = high - low
    if step > 1 and size // step < pieces:
        step = 1
    units = -(-size // step)
    edges = [low + min(units * i // pieces * step, size) for i in range(pieces + 1)]
    return tuple([(a, b) for a, b in itertools.pairwise(edges) if a < b])


def steps_of(rank: int, target: Target) -> tuple[int, ...]:
    """Where cuts should lie: output channels in steps of the array, width in steps of its width."""
    steps = [1] * rank
    if rank:
        steps[axes_of(rank)[1]] = target.matrix_outputs
    if rank >= 4:
        steps[3] = target.matrix_width
    return tuple(steps)


def grids(box: Box, least_rows: int, least_channels: int, step: int) -> Iterator[Iterator[Grid]]:
    """Ways to cut a box: groups of grids from few rows to many, the same in everything else.

    Channels are cut into whole steps first; smaller pieces, and cuts along other axes, come as a last resort.

    Args:
        box: what is cut.
        least_rows: fewest pieces along the rows.
        least_channels: fewest pieces along the channels.
        step: channels that the array computes at once.
    """
    rank = len(box)
    if rank == 0:
        yield iter([Grid((), False)])
        return
    shape = sizes(box)
    row, channel = axes_of(rank)
    others = [a for a in range(rank) if a not in (row, channel)]
    whole_steps = max(1, shape[channel] // step)
    coarse = _powers(min(least_channels, whole_steps), whole_steps)
    fine = [n for n in _powers(1, shape[channel]) if n > whole_steps]
    rows = _powers(least_rows, shape[row]) if row != channel else [1]
    splits = list(_other_splits(shape, others))
    choices = [(splits[0], n) for n in (*coarse, *fine)]
    choices += [(split, n) for split in splits[1:] for n in (whole_steps, shape[channel])]
    for split, n_channels in choices:
        yield (_grid(split, row, n_rows, channel, n_channels) for n_rows in rows)


def _grid(split: Sequence[int], row: int, n_rows: int, channel: int, n_channels: int) -> Grid:
    pieces = list(split)
    pieces[row] = n_rows
    pieces[channel] = n_channels
    return Grid(tuple(pieces), True)


def _other_splits(shape: tuple[int, ...], others: list[int]) -> Iterator[list[int]]:
    """Pieces of the remaining axes: none, then one leading axis after the other taken apart."""
    split = [1] * len(shape)
    yield list(split)
    for axis in others:
        for pieces in _powers(2, shape[axis]):
            split[axis] = pieces
            yield list(split)


def _powers(low: int, high: int) -> list[int]:
    """low, then doubled up to high, high included."""
    values, n = [], max(1, min(low, high))
    while n < high:
        values.append(n)
        n *= 2
    return [*values, high] if high >= 1 else [1]
