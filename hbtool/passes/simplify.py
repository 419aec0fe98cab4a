"""The float clean-up: an ordered list of passes, repeated until nothing changes. Same numbers, fewer nodes."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from hbtool.ir.load import infer_shapes
from hbtool.passes.fold_affine import fold_affine
from hbtool.passes.fold_constants import fold_constants
from hbtool.passes.fold_padding import fold_padding
from hbtool.passes.fuse_elementwise import fuse_elementwise
from hbtool.passes.matmul_to_gemm import matmul_to_gemm
from hbtool.passes.remove_no_ops import remove_no_ops

REWRITES: tuple[Callable[[ir.Model], bool], ...] = (
    remove_no_ops,
    fold_affine,
    fold_padding,
    matmul_to_gemm,
)
"""In this order: what is removed first opens patterns for the later ones."""

REWRITES_OF_TRAINED: tuple[Callable[[ir.Model], bool], ...] = (remove_no_ops,)
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
