"""Rewrites of arithmetic: one form each, layer normalization in pieces, what folds into weights."""

from __future__ import annotations

import numpy as np
import pytest
from float_graphs import Case, Rewrite, check, float_graph, integers, weights

from hbtool.ir import graph
from hbtool.ir.onnx_session import make_session
from hbtool.passes.fold_affine_forward import fold_affine_forward
from hbtool.passes.fold_constants import fold_constants
from hbtool.passes.fuse_layer_norm import fuse_layer_norm
from hbtool.passes.matmul_to_gemm import matmul_to_gemm
from hbtool.passes.merge_reduced_axes import merge_reduced_axes
from hbtool.passes.unify_arithmetic import unify_arithmetic
from hbtool.passes.unify_convolutions import unify_convolutions
from hbtool.passes.unify_products import unify_products

LAYER_NORM = """g (float[%s] x) => (float[%s] y) {
    m = ReduceMean(x, axes)
    d = Sub(x, m)
    q = %s
    v = ReduceMean(q, axes)
    e = Add(v, eps)
    r = Sqrt(e)
    n = Div(d, r)
    s = Mul(n, scale)
    y = Add(s, bias)
}"""
PIECES = "ReduceMean Sub Pow ReduceMean Add Sqrt Div Mul Add"


def layer_norm(
    name: str, after: str, shape: str, axes: tuple[int, ...], factor: tuple[int, ...], square: str = "Pow(d, two)"
) -> Case:
    constants = {
        "axes": integers(*axes),
        "eps": np.float32(1e-5).reshape(()),
        "two": np.float32(2).reshape(()),
        "scale": weights(*factor),
        "bias": weights(*factor, seed=2),
    }
    return Case(name, LAYER_NORM % (shape, shape, square), after, constants)


STATISTICS = {"gamma": weights(4), "beta": weights(4, seed=2), "mean": weights(4, seed=3), "var": weights(4) ** 2}
NORMALIZE = "a = BatchNormalization(x, gamma, beta, mean, var) "

CASES: list[tuple[Rewrite, Case]] = [
    (fuse_layer_norm, layer_norm("last axis", "LayerNormalization", "2,3,8", (-1,), (8,))),
    (fuse_layer_norm, layer_norm("last axis, a product", "LayerNormalization", "2,3,8", (-1,), (8,), "Mul(d, d)")),
    (fuse_layer_norm, layer_norm("two axes", "LayerNormalization", "2,3,8", (1, 2), (3, 8))),
    (
        fuse_layer_norm,
        layer_norm("channels of an image", "Transpose LayerNormalization Transpose", "1,8,3,4", (1,), (8, 1, 1)),
    ),
    (
        fuse_layer_norm,
        layer_norm("factors over other axes stay", "LayerNormalization Mul Add", "2,3,8", (-1,), (3, 8)),
    ),
    (fuse_layer_norm, layer_norm("another power", PIECES, "2,3,8", (-1,), (8,), "Pow(d, eps)")),
    (
        fuse_layer_norm,
        layer_norm("the square of something else", PIECES.replace("Pow", "Mul"), "2,3,8", (-1,), (8,), "Mul(x, x)"),
    ),
    (
        unify_convolutions,
        Case(
            "transposed, stride 1, grouped and dilated",
            "g (float[1,4,5,6] x) => (float[1,6,4,6] y) { y = ConvTranspose<group=2, pads=[2,1,1,1], dilations=[1,1],"
            " strides=[1,1]>(x, w, b) }",
            "Conv",
            {"w": weights(4, 3, 3, 3), "b": weights(6)},
        ),
    ),
    (
        unify_convolutions,
        Case(
            "transposed, spread",
            "g (float[1,4,5,6] x) => (float[1,3,10,12] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
            "ConvTranspose",
            {"w": weights(4, 3, 2, 2)},
        ),
    ),
    (
        unify_arithmetic,
        Case(
            "a constant is subtracted",
            "g (float[1,4,3] x) => (float[1,4,3] y) { y = Sub(x, c) }",
            "Add",
            {"c": weights(4, 1)},
        ),
    ),
    (
        unify_arithmetic,
        Case("negated", "g (float[1,4,3] x) => (float[1,4,3] y) { y = Neg(x) }", "Mul"),
    ),
    (
        unify_arithmetic,
        Case(
            "subtracted from a constant",
            "g (float[1,4,3] x) => (float[1,4,3] y) { y = Sub(c, x) }",
            "Sub",
            {"c": weights(4, 1)},
        ),
    ),
    (
        unify_arithmetic,
        Case(
            "divided by a tensor",
            "g (float[1,4,3] x) => (float[1,4,3] y) { y = Div(x, c) }",
            "Mul",
            {"c": weights(4, 1)},
        ),
    ),
    (
        unify_arithmetic,
        Case(
            "divided by a number", "g (float[1,4,3] x) => (float[1,4,3] y) { y = Div(x, c) }", "Div", {"c": weights(1)}
        ),
    ),
    (
        unify_arithmetic,
        Case(
            "times a reciprocal",
            "g (float[3] x, float[3] z) => (float[3] y) { a = Reciprocal(z) y = Mul(x, a) }",
            "Div",
        ),
    ),
    (
        unify_arithmetic,
        Case(
            "a reciprocal with two readers",
            "g (float[3] x, float[3] z) => (float[3] y) { a = Reciprocal(z) b = Mul(x, a) y = Add(a, b) }",
            "Reciprocal Mul Add",
        ),
    ),
    (
        merge_reduced_axes,
        Case(
            "height and width of NHWC",
            "g (float[1,4,5,3] x) => (float[1,3] y) { y = ReduceMean<keepdims=0>(x, axes) }",
            "Reshape ReduceMean",
            {"axes": integers(1, 2)},
        ),
    ),
    (
        merge_reduced_axes,
        Case(
            "axes that stay",
            "g (float[1,4,5,3] x) => (float[1,1,1,3] y) { y = ReduceMax(x, axes) }",
            "Reshape ReduceMax Reshape",
            {"axes": integers(1, 2)},
        ),
    ),
    (
        merge_reduced_axes,
        Case(
            "axes apart",
            "g (float[1,4,5,3] x) => (float[1,1,5,1] y) { y = ReduceSum(x, axes) }",
            "ReduceSum",
            {"axes": integers(1, 3)},
        ),
    ),
    (
        unify_products,
        Case(
            "first operand transposed",
            "g (float[5,3] x) => (float[3,4] y) { y = Gemm<transA=1>(x, w) }",
            "Transpose Gemm",
            {"w": weights(5, 4)},
        ),
    ),
    (
        unify_products,
        Case(
            "constant first",
            "g (float[2,5,3] x) => (float[2,4,3] y) { y = MatMul(w, x) }",
            "Transpose MatMul Transpose",
            {"w": weights(4, 5)},
        ),
    ),
    (
        unify_products,
        Case(
            "an Einsum that is a product of matrices",
            "g (float[2,6,3,4] x, float[2,5,3,4] z) => (float[2,3,6,5] y) { "
            'y = Einsum<equation="bihd,bjhd->bhij">(x, z) }',
            "Transpose Transpose MatMul",
        ),
    ),
    (
        unify_products,
        Case(
            "an Einsum that sums one operand alone",
            'g (float[2,6,3] x, float[2,5,3] z) => (float[2,5] y) { y = Einsum<equation="bid,bjd->bj">(x, z) }',
            "Einsum",
        ),
    ),
    (
        matmul_to_gemm,
        Case(
            "a bias per column",
            "g (float[2,3,5] x) => (float[2,3,4] y) { a = MatMul(x, w) y = Add(a, b) }",
            "Reshape Gemm Reshape",
            {"w": weights(5, 4), "b": weights(4)},
        ),
    ),
    (
        matmul_to_gemm,
        Case(
            "flattened and normalized",
            "g (float[2,3,5] x) => (float[6,4] y) { m = MatMul(x, w) f = Reshape(m, s) "
            "y = BatchNormalization(f, gamma, beta, mean, var) }",
            "Reshape Gemm BatchNormalization",
            {"w": weights(5, 4), "s": integers(6, 4), **STATISTICS},
        ),
    ),
    (
        matmul_to_gemm,
        Case(
            "two computed operands",
            "g (float[2,3,5] x, float[2,5,4] z) => (float[2,3,4] y) { a = MatMul(x, z) y = Add(a, b) }",
            "MatMul Add",
            {"b": weights(4)},
        ),
    ),
    (
        fold_affine_forward,
        Case(
            "before a Conv without padding",
            "g (float[1,4,5,5] x) => (float[1,6,3,3] y) { " + NORMALIZE + "y = Conv(a, w, b) }",
            "Conv",
            {"w": weights(6, 4, 3, 3), "b": weights(6), **STATISTICS},
        ),
    ),
    (
        fold_affine_forward,
        Case(
            "before a depthwise Conv",
            "g (float[1,4,5,5] x) => (float[1,8,3,3] y) { " + NORMALIZE + "y = Conv<group=4>(a, w) }",
            "Conv",
            {"w": weights(8, 1, 3, 3), **STATISTICS},
        ),
    ),
    (
        fold_affine_forward,
        Case(
            "padding stays zero",
            "g (float[1,4,5,5] x) => (float[1,6,5,5] y) { " + NORMALIZE + "y = Conv<pads=[1,1,1,1]>(a, w) }",
            "BatchNormalization Conv",
            {"w": weights(6, 4, 3, 3), **STATISTICS},
        ),
    ),
    (
        fold_affine_forward,
        Case(
            "before a Gemm",
            "g (float[2,4] x) => (float[2,6] y) { " + NORMALIZE + "y = Gemm<transB=1>(a, w, b) }",
            "Gemm",
            {"w": weights(6, 4), "b": weights(6), **STATISTICS},
        ),
    ),
]


@pytest.mark.parametrize(("rewrite", "case"), CASES, ids=[f"{r.__name__}: {c.name}" for r, c in CASES])
def test_rewrite(rewrite: Rewrite, case: Case) -> None:
    check(rewrite, case)


def test_the_fused_normalization_has_the_name_of_its_last_piece() -> None:
    case = layer_norm("last axis", "LayerNormalization", "2,3,8", (-1,), (8,))
    last = graph.node_name(list(float_graph(case).graph)[-1])
    assert [graph.node_name(n) for n in check(fuse_layer_norm, case).graph] == [last]


BRANCHES = """g (float[1,4,3] x) => (float[1,4,3] y, float[1,4,3] z) {
    s = Shape(x)  n = Size(s)  more = Greater(n, limit)
    y = If (more) <
        then_branch = a () => (float[1,4,3] p) { r = Relu(x)  p = Mul(r, c) },
        else_branch = b () => (float[1,4,3] p) { p = Neg(x) } >
    z = If (more) <
        then_branch = a () => (float[1,4,3] p) { p = Identity(x) },
        else_branch = b () => (float[1,4,3] p) { r = Abs(x)  p = Sqrt(r) } > }"""


@pytest.mark.parametrize(("limit", "after"), [(2, ["Relu", "Mul", "Identity"]), (3, ["Neg", "Abs", "Sqrt"])])
def test_a_branch_that_is_known_ahead_is_taken(limit: int, after: list[str]) -> None:
    model = float_graph(Case("", BRANCHES, "", {"limit": integers(limit).reshape(()), "c": weights(4, 1)}))
    feeds = {"x": weights(1, 4, 3, seed=7)}
    before = make_session(model).run(None, feeds)
    fold_constants(model)
    assert [n.op_type for n in model.graph] == after
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    for got, want in zip(make_session(model).run(None, feeds), before, strict=True):
        np.testing.assert_array_equal(got, want)
    assert len({v.name for n in model.graph for v in n.outputs}) == len(after)
