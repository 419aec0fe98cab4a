"""Rewrites of data movement: transposes, reshapes, slices, copies, pooling forms."""

from __future__ import annotations

import numpy as np
import pytest
from float_graphs import Case, Rewrite, check, integers, weights

from hbtool.passes.fold_space_to_depth import fold_space_to_depth
from hbtool.passes.gather_to_slice import gather_to_slice
from hbtool.passes.merge_equal_nodes import merge_equal_nodes
from hbtool.passes.merge_transposes import merge_transposes
from hbtool.passes.pool_to_2d import pool_to_2d
from hbtool.passes.remove_expands import remove_expands
from hbtool.passes.remove_no_ops import remove_no_ops
from hbtool.passes.remove_split_concat import remove_split_concat
from hbtool.passes.sink_transposes import sink_transposes
from hbtool.passes.slice_before_transpose import slice_before_transpose
from hbtool.passes.slices_to_space_to_depth import slices_to_space_to_depth
from hbtool.passes.unify_pooling import unify_pooling

LARGE = 2**31 - 1


def focus(order: list[tuple[int, int]], conv: bool = True, steps: int = 2) -> Case:
    """The Focus of YOLOv5 with its phases in some order."""
    lines, constants = [], {"axes": integers(2, 3), "steps": integers(steps, 2), "ends": integers(LARGE, LARGE)}
    for k, (i, j) in enumerate(order):
        constants[f"s{k}"] = integers(i, j)
        lines.append(f"p{k} = Slice(x, s{k}, ends, axes, steps)")
    joined = ", ".join(f"p{k}" for k in range(len(order)))
    last = "joined = Concat<axis=1>(%s)\ny = Conv<pads=[1,1,1,1]>(joined, w)" if conv else "y = Concat<axis=1>(%s)"
    if conv:
        constants["w"] = weights(6, 12, 3, 3)
    body = "\n".join([*lines, last % joined])
    shape = "1,6,4,4" if conv else "1,12,4,4" if steps == 2 else "1,12,3,4"
    return Case("", f"g (float[1,3,8,8] x) => (float[{shape}] y) {{ {body} }}", "", constants)


def stated(name: str, case: Case, after: str) -> Case:
    return Case(name, case.text, after, case.constants)


YOLO = [(0, 0), (1, 0), (0, 1), (1, 1)]
ROW_BY_ROW = [(0, 0), (0, 1), (1, 0), (1, 1)]
SLICES = "Slice Slice Slice Slice "

ATTENTION = """g (float[1,5,24] x) => (float[1,2,5,4] y) {
    r = Reshape(x, s)
    t = Transpose<perm=[2,0,3,1,4]>(r)
    %s
    a = Squeeze(q, zero)
    b = Squeeze(k, zero)
    c = Squeeze(v, zero)
    p = Mul(a, b)
    y = Add(p, c)
}"""

SOFTMAX = """g (float[1,2,4,5] x) => (float[1,2,5,4] y) {
    t = Transpose<perm=[0,3,1,2]>(x)
    m = ReduceMax(t, axes)
    d = Sub(t, m)
    e = Exp(d)
    s = ReduceSum(e, axes)
    q = Div(e, s)
    y = Transpose<perm=[0,2,1,3]>(q)
}"""

CASES: list[tuple[Rewrite, Case]] = [
    (
        merge_transposes,
        Case(
            "a pair that cancels",
            "g (float[1,2,3,4] x) => (float[1,2,3,4] y) { a = Transpose<perm=[0,2,3,1]>(x) "
            "b = Transpose<perm=[0,3,1,2]>(a) y = Relu(b) }",
            "Relu",
        ),
    ),
    (
        merge_transposes,
        Case(
            "a pair that becomes one",
            "g (float[2,3,4] x) => (float[4,2,3] y) { a = Transpose<perm=[1,2,0]>(x) y = Transpose<perm=[1,2,0]>(a) }",
            "Transpose",
        ),
    ),
    (
        merge_transposes,
        Case(
            "only an axis of size 1 moves",
            "g (float[1,3,4] x) => (float[3,4] y) { a = Transpose<perm=[1,0,2]>(x) y = Reshape(a, s) }",
            "Reshape Reshape",
            {"s": integers(3, 4)},
        ),
    ),
    (
        merge_transposes,
        Case(
            "only an axis of size 1 moves, and nothing to join",
            "g (float[1,3,4] x) => (float[3,1,4] y) { y = Transpose<perm=[1,0,2]>(x) }",
            "Transpose",
        ),
    ),
    (
        merge_transposes,
        Case(
            "channel shuffle stays",
            "g (float[1,6,4,4] x) => (float[1,6,4,4] y) { a = Reshape(x, s) b = Transpose<perm=[0,2,1,3,4]>(a) "
            "y = Reshape(b, t) }",
            "Reshape Transpose Reshape",
            {"s": integers(1, 2, 3, 4, 4), "t": integers(1, 6, 4, 4)},
        ),
    ),
    (
        sink_transposes,
        Case(
            "through one operator to another Transpose",
            "g (float[1,2,3,4] x) => (float[1,2,3,4] y) { a = Transpose<perm=[0,2,3,1]>(x) b = Relu(a) "
            "y = Transpose<perm=[0,3,1,2]>(b) }",
            "Relu Transpose",
        ),
    ),
    (
        sink_transposes,
        Case(
            "two operands",
            "g (float[2,3,4] x, float[2,3,4] z) => (float[4,3,2] y) { a = Transpose(x) b = Transpose(z) "
            "c = Mul(a, b) y = Add(c, k) }",
            "Mul Add Transpose",
            {"k": weights(4, 1, 2)},
        ),
    ),
    (
        sink_transposes,
        Case("a Softmax in pieces", SOFTMAX, "ReduceMax Sub Exp ReduceSum Div Transpose", {"axes": integers(1)}),
    ),
    (
        sink_transposes,
        Case(
            "nothing to win",
            "g (float[2,3,4] x, float[4,3,2] z) => (float[4,3,2] y) { a = Transpose(x) b = Relu(a) y = Add(b, z) }",
            "Transpose Relu Add",
        ),
    ),
    (
        sink_transposes,
        Case(
            "the value in between leaves the graph",
            "g (float[2,3,4] x) => (float[4,3,2] r, float[2,3,4] y) { a = Transpose(x) r = Relu(a) y = Transpose(r) }",
            "Relu Transpose Transpose",
        ),
    ),
    (
        remove_split_concat,
        Case(
            "all parts in order",
            "g (float[1,6,4] x) => (float[1,6,4] y) { a, b = Split<axis=1, num_outputs=2>(x) "
            "c = Concat<axis=1>(a, b) y = Relu(c) }",
            "Relu",
        ),
    ),
    (
        remove_split_concat,
        Case(
            "parts exchanged",
            "g (float[1,6,4] x) => (float[1,6,4] y) { a, b = Split<axis=1, num_outputs=2>(x) "
            "c = Concat<axis=1>(b, a) y = Relu(c) }",
            "Split Concat Relu",
        ),
    ),
    (
        remove_split_concat,
        Case(
            "slices in order",
            "g (float[1,6,4] x) => (float[1,6,4] y) { a = Slice(x, zero, two, one) b = Slice(x, two, end, one) "
            "c = Concat<axis=1>(a, b) y = Relu(c) }",
            "Relu",
            {"zero": integers(0), "one": integers(1), "two": integers(2), "end": integers(LARGE)},
        ),
    ),
    (
        remove_split_concat,
        Case(
            "slices with a hole",
            "g (float[1,6,4] x) => (float[1,5,4] y) { a = Slice(x, zero, two, one) b = Slice(x, three, end, one) "
            "c = Concat<axis=1>(a, b) y = Relu(c) }",
            "Slice Slice Concat Relu",
            {"zero": integers(0), "one": integers(1), "two": integers(2), "three": integers(3), "end": integers(LARGE)},
        ),
    ),
    (slices_to_space_to_depth, stated("Focus of YOLOv5", focus(YOLO), "SpaceToDepth Conv")),
    (slices_to_space_to_depth, stated("rows first, no Conv needed", focus(ROW_BY_ROW, False), "SpaceToDepth")),
    (slices_to_space_to_depth, stated("no Conv to fold the order into", focus(YOLO, False), SLICES + "Concat")),
    (
        slices_to_space_to_depth,
        stated("one phase twice", focus([(0, 0), (0, 0), (0, 1), (1, 1)]), SLICES + "Concat Conv"),
    ),
    (
        fold_space_to_depth,
        Case(
            "into the stride",
            "g (float[1,3,8,8] x) => (float[1,6,4,4] y) { a = SpaceToDepth<blocksize=2>(x) "
            "y = Conv<pads=[1,1,1,1]>(a, w, b) }",
            "Conv",
            {"w": weights(6, 12, 3, 3), "b": weights(6)},
        ),
    ),
    (
        fold_space_to_depth,
        Case(
            "groups stay",
            "g (float[1,3,8,8] x) => (float[1,12,4,4] y) { a = SpaceToDepth<blocksize=2>(x) "
            "y = Conv<pads=[1,1,1,1], group=12>(a, w) }",
            "SpaceToDepth Conv",
            {"w": weights(12, 1, 3, 3)},
        ),
    ),
    (
        gather_to_slice,
        Case(
            "q, k, v of a joint projection",
            "g (float[3,1,4,5] x) => (float[1,4,4] y) { q = Gather<axis=0>(x, zero) k = Gather<axis=0>(x, one) "
            "t = Transpose<perm=[0,2,1]>(k) y = MatMul(q, t) }",
            "Slice Reshape Slice Reshape Transpose MatMul",
            {"zero": np.asarray(0), "one": np.asarray(-2)},
        ),
    ),
    (
        gather_to_slice,
        Case(
            "neighbours",
            "g (float[1,6,4] x) => (float[1,3,4] y) { y = Gather<axis=1>(x, i) }",
            "Slice",
            {"i": integers(2, 3, 4)},
        ),
    ),
    (
        gather_to_slice,
        Case(
            "another order",
            "g (float[1,6,4] x) => (float[1,3,4] y) { y = Gather<axis=1>(x, i) }",
            "Gather",
            {"i": integers(4, 3, 2)},
        ),
    ),
    (
        slice_before_transpose,
        Case(
            "q, k, v by a Split",
            ATTENTION % "q, k, v = Split<axis=0, num_outputs=3>(t)",
            "Slice Reshape Transpose Slice Reshape Transpose Slice Reshape Transpose Mul Add",
            {"s": integers(1, 5, 3, 2, 4), "zero": integers(0)},
        ),
    ),
    (
        slice_before_transpose,
        Case(
            "only two of three, by Slices",
            """g (float[1,5,24] x) => (float[1,2,5,4] y) {
                r = Reshape(x, s)  t = Transpose<perm=[2,0,3,1,4]>(r)  q = Slice(t, zero, one, zero, one)
                v = Slice(t, two, three, zero, one)  a = Squeeze(q, zero)  b = Squeeze(v, zero)  y = Mul(a, b) }""",
            "Slice Reshape Transpose Slice Reshape Transpose Mul",
            {"s": integers(1, 5, 3, 2, 4), **{n: integers(i) for i, n in enumerate(("zero", "one", "two", "three"))}},
        ),
    ),
    (
        slice_before_transpose,
        Case(
            "another reader of the Transpose",
            """g (float[1,5,6] x) => (float[1,3,5,2] y, float[1,5,2] z) {
                r = Reshape(x, s)  t = Transpose<perm=[2,0,1,3]>(r)  q, k, v = Split<axis=0, num_outputs=3>(t)
                z = Squeeze(q, zero)  y = Transpose<perm=[1,0,2,3]>(t) }""",
            "Reshape Transpose Split Squeeze Transpose",
            {"s": integers(1, 5, 3, 2), "zero": integers(0)},
        ),
    ),
    (
        remove_expands,
        Case(
            "broadcasting does it",
            "g (float[1,1,4] x, float[2,3,4] z) => (float[2,3,4] y) { a = Expand(x, s) y = Div(z, a) }",
            "Div",
            {"s": integers(2, 3, 4)},
        ),
    ),
    (
        remove_expands,
        Case(
            "the copies are wanted",
            "g (float[1,1,4] x, float[1,1,4] z) => (float[2,3,4] y) { a = Expand(x, s) y = Div(z, a) }",
            "Expand Div",
            {"s": integers(2, 3, 4)},
        ),
    ),
    (
        remove_expands,
        Case(
            "a cast there and back",
            "g (float[3] x) => (float[3] y) { a = Cast<to=11>(x) b = Cast<to=1>(a) y = Relu(b) }",
            "Relu",
        ),
    ),
    (
        remove_expands,
        Case(
            "a cast that rounds",
            "g (float[3] x) => (float[3] y) { a = Cast<to=10>(x) b = Cast<to=1>(a) y = Relu(b) }",
            "Cast Cast Relu",
        ),
    ),
    (
        merge_equal_nodes,
        Case(
            "a mean computed twice",
            "g (float[2,4] x) => (float[2,4] y) { m = ReduceMean(x, axes) a = Sub(x, m) n = ReduceMean(x, axes) "
            "b = Sub(x, n) y = Mul(a, b) }",
            "ReduceMean Sub Mul",
            {"axes": integers(-1)},
        ),
    ),
    (
        merge_equal_nodes,
        Case(
            "other axes",
            "g (float[2,4] x) => (float[2,4] y) { m = ReduceMean(x, i) n = ReduceMean(x, j) y = Add(m, n) }",
            "ReduceMean ReduceMean Add",
            {"i": integers(1), "j": integers(0)},
        ),
    ),
    (
        unify_pooling,
        Case(
            "a mean that keeps its axes",
            "g (float[1,3,4,5] x) => (float[1,3,1,1] y) { y = ReduceMean(x, axes) }",
            "GlobalAveragePool",
            {"axes": integers(-1, -2)},
        ),
    ),
    (
        unify_pooling,
        Case(
            "a mean that drops its axes",
            "g (float[1,3,4,5] x) => (float[1,3] y) { y = ReduceMean<keepdims=0>(x, axes) }",
            "GlobalAveragePool Reshape",
            {"axes": integers(2, 3)},
        ),
    ),
    (
        unify_pooling,
        Case(
            "a kernel as large as the image",
            "g (float[1,3,4,5] x) => (float[1,3,1,1] y) { y = AveragePool<kernel_shape=[4,5]>(x) }",
            "GlobalAveragePool",
        ),
    ),
    (
        unify_pooling,
        Case(
            "a mean over the channels",
            "g (float[1,3,4,5] x) => (float[1,1,4,5] y) { y = ReduceMean(x, axes) }",
            "ReduceMean",
            {"axes": integers(1)},
        ),
    ),
    (
        pool_to_2d,
        Case(
            "license plate networks",
            "g (float[1,8,6,10] x) => (float[1,4,4,4] y) { a = Unsqueeze(x, axes) "
            "b = MaxPool<kernel_shape=[1,3,3], strides=[2,1,2]>(a) y = Squeeze(b, axes) }",
            "MaxPool Slice",
            {"axes": integers(1)},
        ),
    ),
    (
        pool_to_2d,
        Case(
            "channels are pooled",
            "g (float[1,8,6,10] x) => (float[1,4,4,8] y) { a = Unsqueeze(x, axes) "
            "b = MaxPool<kernel_shape=[2,3,3], strides=[2,1,1]>(a) y = Squeeze(b, axes) }",
            "Unsqueeze MaxPool Squeeze",
            {"axes": integers(1)},
        ),
    ),
    (
        remove_no_ops,
        Case(
            "a chain of shapes",
            "g (float[2,3,4] x) => (float[1,6,4] y) { a = Unsqueeze(x, axes) b = Squeeze(a, axes) c = Reshape(b, s) "
            "y = Unsqueeze(c, axes) }",
            "Reshape",
            {"axes": integers(0), "s": integers(6, 4)},
        ),
    ),
]


@pytest.mark.parametrize(("rewrite", "case"), CASES, ids=[f"{r.__name__}: {c.name}" for r, c in CASES])
def test_rewrite(rewrite: Rewrite, case: Case) -> None:
    check(rewrite, case)
