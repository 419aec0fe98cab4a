"""The float clean-up: an ordered list of passes, repeated until nothing changes. Same numbers, fewer nodes."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from hbtool.ir.load import infer_shapes
from hbtool.passes.fold_affine import fold_affine
from hbtool.passes.fold_affine_forward import fold_affine_forward
from hbtool.passes.fold_constants import fold_constants
from hbtool.passes.fold_padding import fold_padding
from hbtool.passes.fold_space_to_depth import fold_space_to_depth
from hbtool.passes.fuse_elementwise import fuse_elementwise
from hbtool.passes.fuse_layer_norm import fuse_layer_norm
from hbtool.passes.gather_to_slice import gather_to_slice
from hbtool.passes.matmul_to_gemm import matmul_to_gemm
from hbtool.passes.merge_equal_nodes import merge_equal_nodes
from hbtool.passes.merge_reduced_axes import merge_reduced_axes
from hbtool.passes.merge_transposes import merge_transposes
from hbtool.passes.pool_to_2d import pool_to_2d
from hbtool.passes.remove_expands import remove_expands
from hbtool.passes.remove_no_ops import remove_no_ops
from hbtool.passes.remove_split_concat import remove_split_concat
from hbtool.passes.sink_transposes import sink_transposes
from hbtool.passes.slice_before_transpose import slice_before_transpose
from hbtool.passes.slices_to_space_to_depth import slices_to_space_to_depth
from hbtool.passes.unify_arithmetic import unify_arithmetic
from hbtool.passes.unify_convolutions import unify_convolutions
from hbtool.passes.unify_pooling import unify_pooling
from hbtool.passes.unify_products import unify_products

REWRITES: tuple[Callable[[ir.Model], bool], ...] = (
    remove_no_ops,
    remove_expands,
    remove_split_concat,
    merge_equal_nodes,
    # Patterns that later passes would take apart.
    fuse_layer_norm,
    slices_to_space_to_depth,
    pool_to_2d,
    # One form each.
    gather_to_slice,
    unify_arithmetic,
    unify_convolutions,
    unify_pooling,
    merge_reduced_axes,
    unify_products,
    # Into the weights.
    fold_affine,
    fold_padding,
    fold_space_to_depth,
    matmul_to_gemm,
    fold_affine_forward,
    # Layout.
    slice_before_transpose,
    merge_transposes,
    sink_transposes,
)
"""In this order: what is removed first opens patterns for the later ones."""

REWRITES_OF_TRAINED: tuple[Callable[[ir.Model], bool], ...] = (remove_no_ops, matmul_to_gemm)
"""Rewrites that leave trained weights and ranges alone."""

MAX_ROUNDS = 20


def simplify(model: ir.Model) -> ir.Model:
    """The simplified copy of a FLOAT graph; inputs and outputs keep their names, types and values."""
    return _simplify(model, REWRITES)


def simplify_trained(model: ir.Model) -> ir.Model:
    """The same for a graph whose values carry trained ranges: weights are not changed."""
    return _simplify(model, REWRITES_OF_TRAINED)


def _simplify(model: ir.Model, rewrites: tuple[Callable[[ir.Model], bool], ...]) -> ir.Model:
    model = model.clone()
    fold_constants(model)
    for _ in range(MAX_ROUNDS):
        changed = [rewrite(model) for rewrite in rewrites]
        drop_dead(model)
        if not any(changed):
            break
        infer_shapes(model)
    # Last, because fused functions hide their operators from the passes above.
    fuse_elementwise(model)
    drop_dead(model)
    return model


def drop_dead(model: ir.Model) -> None:
    """Remove nodes and constants that nothing reads."""
    common.RemoveUnusedNodesPass()(model)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
