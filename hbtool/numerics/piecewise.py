"""Functions of an int16 argument as a piecewise-linear table, fine where the function bends and coarse elsewhere.

A full table of 65,536 int16 entries is 128 KiB: more than the weights of many layers. The hardware described in the
references interpolates linearly between the entries of up to 64 ranges of 64 entries. Here the argument is cut into
256 blocks of 256 integers; block b has an entry every 2^shift[b] integers, 2^shift between 1 (exact) and 256:

    o = x + 32768;  b = o >> 8;  i = o & 255;  k = first[b] + (i >> shift[b])
    w = (i mod 2^shift[b]) * 2^(8 - shift[b])
    y = round_half_even((entry[k] * (256 - w) + entry[k + 1] * w) / 256)

`fit` chooses the coarsest shift per block that keeps |y - round(f)| within the smallest of `TOLERANCES` whose table has
at most `BUDGET` entries. Where none does (a function that jumps hundreds of times), the budget is given up, not the
bound: the result is never more than `TOLERANCES[0]` steps away then. So `BOUND` steps hold for every function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hbtool.numerics.qtype import INT16

BLOCK_BITS = 8
"""A block is 2^8 neighbouring integers."""

BLOCKS = 1 << (16 - BLOCK_BITS)
BLOCK = 1 << BLOCK_BITS

BUDGET = 64 * 64
"""Entries a table should not exceed: what 64 ranges of 64 entries hold."""

TOLERANCES = (1, 2, 4)
"""Largest distance from the rounded function, in steps of the output, tried in this order."""

BOUND = max(TOLERANCES)
"""No table is further than this from the rounded function, in steps of its output."""


@dataclass(frozen=True)
class Segments:
    """A piecewise-linear table.

    Attributes:
        blocks: int32 [256, 2]: number of the block's first entry, log2 of the integers between two entries.
        entries: the entries, in the output's integer type; a block of 2^k intervals has 2^k + 1 of them.
    """

    blocks: NDArray[np.int32]
    entries: NDArray[np.signedinteger]


def _interpolated(values: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Every block of `values` [BLOCKS, BLOCK + 1] from its entries 2^shift apart: [BLOCKS, BLOCK]."""
    inner = np.arange(BLOCK)
    low = (inner >> shift) << shift
    weight = (inner - low) << (BLOCK_BITS - shift)
    blend = values[:, low] * (BLOCK - weight) + values[:, low + (1 << shift)] * weight
    return np.rint(blend / BLOCK).astype(np.int64)


def fit(values: NDArray[np.signedinteger]) -> Segments:
    """The table of a function given by its rounded values.

    Args:
        values: integers [65537], the function at -32768 ... 32768 (the last one is only a neighbour), of the dtype the
            entries shall have.
    """
    flat = values.astype(np.int64)
    inside = flat[:-1].reshape(BLOCKS, BLOCK)
    with_neighbour = np.concatenate([inside, flat[BLOCK::BLOCK][:, None]], axis=1)
    shifts = np.arange(BLOCK_BITS + 1)
    errors = np.stack([np.abs(_interpolated(with_neighbour, int(s)) - inside).max(axis=1) for s in shifts])
    chosen = shifts[:1].repeat(BLOCKS)
    for tolerance in (*TOLERANCES, TOLERANCES[0]):
        # The coarsest shift within the tolerance; shift 0 always is.
        chosen = BLOCK_BITS - np.argmax((errors <= tolerance)[::-1], axis=0)
        if ((BLOCK >> chosen) + 1).sum() <= BUDGET:
            break
    counts = (BLOCK >> chosen) + 1
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    entries = np.concatenate([with_neighbour[b, :: 1 << chosen[b]] for b in range(BLOCKS)])
    return Segments(np.stack([first, chosen], axis=1).astype(np.int32), entries.astype(values.dtype))


def evaluate(
    x: NDArray[np.signedinteger], blocks: NDArray[np.int32], entries: NDArray[np.signedinteger]
) -> NDArray[np.signedinteger]:
    """The definition above: int16 `x` of any shape -> integers of the entries' type, same shape."""
    offset = x.astype(np.int64) - INT16.min
    block, inner = offset >> BLOCK_BITS, offset & (BLOCK - 1)
    first, shift = blocks[block, 0].astype(np.int64), blocks[block, 1].astype(np.int64)
    k = first + (inner >> shift)
    weight = (inner & ((1 << shift) - 1)) << (BLOCK_BITS - shift)
    blend = entries[k].astype(np.int64) * (BLOCK - weight) + entries[k + 1].astype(np.int64) * weight
    return np.rint(blend / BLOCK).astype(entries.dtype)


def expand(blocks: NDArray[np.int32], entries: NDArray[np.signedinteger]) -> NDArray[np.signedinteger]:
    """The same function as one entry per integer, [65536]: what an executor without interpolation looks up."""
    return evaluate(np.arange(INT16.min, INT16.max + 1, dtype=np.int32), blocks, entries)
