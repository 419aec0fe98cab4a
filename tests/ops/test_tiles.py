"""Every integer operator, cut into output boxes: each box from the operand boxes that `tile` names, the same bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from one_op import feeds_of, lower_sample

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.ir import graph, meta
from hbtool.numerics.int_math import NumpyMath
from hbtool.numerics.qtype import INT8
from hbtool.ops.op import Box, Sample, float_ops, integer_op, is_integer, read_attributes
from hbtool.passes.attach_ranges import RangeOptions
from hbtool.runtime.reference import run_reference

SAMPLES = [
    pytest.param(sample, id=f"{type(op).__name__}-{sample.name}")
    for op in dict.fromkeys(float_ops().values())
    for sample in op.samples()
]


def boxes(shape: tuple[int, ...], size: int) -> Iterator[Box]:
    """The tensor in pieces of at most `size` elements along every axis."""
    starts = [range(0, n, size) for n in shape]
    for corner in np.ndindex(*(len(s) for s in starts)):
        yield tuple((starts[i][k], min(starts[i][k] + size, shape[i])) for i, k in enumerate(corner))


def cut(array: np.ndarray, box: Box | None) -> np.ndarray:
    return array if box is None else array[tuple(slice(low, high) for low, high in box)]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("sample", SAMPLES)
def test_tiles_join_to_the_whole(sample: Sample, size: int) -> None:
    _, integer, _ = lower_sample(sample, options=RangeOptions(output_type=INT8))
    values = run_reference(integer, feeds_of(integer, sample), keep=True)
    for node in integer.graph:
        if not is_integer(node) or not meta.on_bpu(node):
            continue
        op, attributes = integer_op(node), read_attributes(node)
        constants = [graph.constant(v) for v in node.inputs]
        operands = [values[v.name] if a is None else a for v, a in zip(node.inputs, constants, strict=True)]
        shapes = [a.shape for a in operands]
        whole = values[node.outputs[0].name]
        work = op.work(attributes, shapes, whole.shape, [INT8 for _ in operands])
        assert work.unit in ("matrix", "vector", "move") and max(work.macs, work.vector_ops) > 0
        some = list(boxes(whole.shape, size))
        # Corners, borders and the middle: enough of a tensor of a thousand channels.
        for box in some[:12] + some[12 :: max(len(some) // 12, 1)]:
            tile = op.tile(attributes, shapes, whole.shape, box)
            if tile is None:
                continue
            parts = [cut(a, b) for a, b in zip(operands, tile.boxes, strict=True)]
            piece = op.kernel(NumpyMath(), tile.attributes, *parts)
            np.testing.assert_array_equal(piece, cut(whole, box), err_msg=f"{op.name} {box}")
