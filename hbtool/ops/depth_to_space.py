"""DepthToSpace and SpaceToDepth: blocks of pixels become channels and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import IntType
from hbtool.ops.boundary import requantized
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.interleave import interleave, separate
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import Box, IntegerOp, Sample, Tile, constraint


@dataclass(frozen=True)
class BlocksAttributes:
    """Block size, and the order of a pixel's channels: `DCR` (block first), `CRD` (channel first), or `space` back."""

    block: int = 2
    mode: str = "DCR"


class Blocks(IntegerOp):
    """A permutation of elements between blocks of pixels and channels; the scale does not change."""

    name = "Blocks"
    Attributes = BlocksAttributes
    moves = True

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        shape = tuple(int(n) for n in x[0].shape)  # type: ignore[union-attr]
        inner, perm, out = _permutation(shape, a)
        return m.reshape(m.transpose(m.reshape(x[0], inner), perm), out)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand = x[0]
        assert operand is not None
        n, c, h, w = operand.shape
        s = a.block
        if a.mode == "space":
            phases = separate(b, b.value(operand), n * c, s, (h, w))
            swapped = b.op("Transpose", b.reshape(phases, (n, c, s * s, -1)), perm=[0, 2, 1, 3])
            return [b.reshape(swapped, (n, c * s * s, h // s, w // s))]
        y, channels = b.value(operand), c // (s * s)
        if a.mode == "DCR":
            y = b.op("Transpose", b.reshape(y, (n, s * s, channels, h * w)), perm=[0, 2, 1, 3])
        y, _ = interleave(b, y, n * channels, (s, s), (h, w))
        return [b.reshape(y, (n, channels, h * s, w * s))]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile | None:
        x = shapes[0]
        assert x is not None
        if box[1] != (0, out[1]):
            return None
        if a.mode == "space":
            spatial = tuple((low * a.block, high * a.block) for low, high in box[2:])
        elif any(edge % a.block for pair in box[2:] for edge in pair):
            return None
        else:
            spatial = tuple((low // a.block, high // a.block) for low, high in box[2:])
        return Tile(((box[0], (0, x[1]), *spatial),), a)


def _permutation(shape: tuple[int, ...], a: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(shape to split into, permutation, final shape), as ONNX defines the three modes."""
    n, c, h, w = shape
    s = a.block
    if a.mode == "space":
        return (n, c, h // s, s, w // s, s), (0, 3, 5, 1, 2, 4), (n, c * s * s, h // s, w // s)
    out = (n, c // (s * s), h * s, w * s)
    if a.mode == "CRD":
        return (n, c // (s * s), s, s, h, w), (0, 1, 4, 2, 5, 3), out
    return (n, s, s, c // (s * s), h, w), (0, 3, 4, 1, 5, 2), out


class BlocksFloat(Limited):
    """ONNX DepthToSpace and SpaceToDepth."""

    op_types = ("DepthToSpace", "SpaceToDepth")
    passive = True
    rule_text = "addresses only"

    @constraint(bernoulli2=2, bayes=2, bayes_e=2)
    def block_size(self, node: ir.Node, limit: int) -> bool | str:
        """block size {limit}"""
        block = graph.attribute(node, "blocksize")
        return block == limit or f"it is {block}"

    @constraint(bayes=4, bayes_e=4)
    def channels(self, node: ir.Node, limit: int) -> bool | str:
        """for DepthToSpace: a multiple of {limit} channels"""
        x = node.inputs[0]
        assert x is not None
        count = graph.static_shape(x)[1]
        return node.op_type != "DepthToSpace" or count % limit == 0 or f"there are {count}"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        result = b.result(node)
        mode = "space" if node.op_type == "SpaceToDepth" else graph.attribute(node, "mode", "DCR")
        attributes = BlocksAttributes(graph.attribute(node, "blocksize"), mode)
        source = requantized(b, b.x(node.inputs[0]), result.q)
        shape = graph.static_shape(node.outputs[0])
        b.emit(Blocks, [source], result.q, shape, attributes, represents=result.value)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        x = np.random.default_rng(31).standard_normal((2, 8, 4, 6)).astype(np.float32)
        yield Sample("block first", "DepthToSpace", (x,), attributes={"blocksize": 2})
        yield Sample("channel first", "DepthToSpace", (x,), attributes={"blocksize": 2, "mode": "CRD"})
        yield Sample("back", "SpaceToDepth", (x,), attributes={"blocksize": 2})
