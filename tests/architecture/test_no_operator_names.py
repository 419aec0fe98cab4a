"""Generic code knows no operator by name: what is true of one stands in its file under `hbtool/ops`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.ops.op import integer_ops

PACKAGE = Path(__file__).resolve().parents[2] / "hbtool"
GENERIC = ("artifact", "compiler", "passes", "perf", "runtime")

REWRITES = {
    "passes/equalize.py",
    "passes/fold_affine.py",
    "passes/fold_affine_forward.py",
    "passes/fold_constants.py",
    "passes/fold_padding.py",
    "passes/fold_space_to_depth.py",
    "passes/fuse_layer_norm.py",
    "passes/gather_to_slice.py",
    "passes/insert_preprocess.py",
    "passes/matmul_to_gemm.py",
    "passes/merge_reduced_axes.py",
    "passes/merge_transposes.py",
    "passes/pool_to_2d.py",
    "passes/read_qdq.py",
    "passes/remove_expands.py",
    "passes/remove_no_ops.py",
    "passes/remove_split_concat.py",
    "passes/set_batch.py",
    "passes/sink_transposes.py",
    "passes/slice_before_transpose.py",
    "passes/slices_to_space_to_depth.py",
    "passes/to_qdq.py",
    "passes/transpose_trained.py",
    "passes/unify_arithmetic.py",
    "passes/inline_branches.py",
    "passes/unify_convolutions.py",
    "passes/unify_pooling.py",
    "passes/unify_products.py",
}
"""Passes whose subject is a pattern of operators: a rewrite rule names what it rewrites."""

WRITERS = {
    "passes/fuse_elementwise.py",
    "passes/to_standard_onnx.py",
}
"""They write the standard operators that any ONNX graph needs for constants and changes of type, and recognize none."""

REMOVABLE = {
    "passes/remove_border_nodes.py",
    "runtime/removed.py",
}
"""remove_node_type names these kinds of nodes; what was removed is described and replayed under the same names."""

EXCEPTIONS = REWRITES | WRITERS | REMOVABLE

NAMES = {schema.name for schema in onnx.defs.get_all_schemas_with_history()} | set(integer_ops())


def operator_literals(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that is an operator's name; docstrings are sentences and never match."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in NAMES:
            yield node.lineno, node.value


def test_the_search_finds_names() -> None:
    source = 'if node.op_type in ("Conv", "conv"):\n    name = "Requantize"\n'
    assert sorted(operator_literals(source)) == [(1, "Conv"), (2, "Requantize")]


@pytest.mark.parametrize("floor", GENERIC)
def test_generic_code_names_no_operator(floor: str) -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path in sorted((PACKAGE / floor).rglob("*.py"))
        if path.relative_to(PACKAGE).as_posix() not in EXCEPTIONS
        for line, name in operator_literals(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize("path", sorted(EXCEPTIONS))
def test_every_exception_exists_and_names_something(path: str) -> None:
    assert list(operator_literals((PACKAGE / path).read_text()))
