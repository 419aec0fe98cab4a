"""One form for matrix products: MatMul of plain operands, constants second.

Before: Gemm(transA); MatMul(constant, x); Einsum of two operands that is a batched matrix product
After: Transpose -> Gemm; Transpose -> MatMul(., constant transposed) -> Transpose; Transposes -> MatMul -> Transpose
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.onnx_builder import attr
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import insert, is_standard, take_place


def unify_products(model: ir.Model) -> bool:
    """Rewrite everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if is_standard(node, "Gemm") and graph.attribute(node, "transA", 0):
            changed |= _untranspose(node)
        elif is_standard(node, "MatMul"):
            changed |= _constant_second(model, node)
        elif is_standard(node, "Einsum"):
            changed |= _as_matmul(model, node)
    return changed


def _untranspose(node: ir.Node) -> bool:
    first = node.inputs[0]
    shape = graph.known_shape(first) if first is not None else None
    if first is None or shape is None or graph.constant(first) is not None:
        return False
    name = f"{graph.node_name(node)}_transpose_input"
    node.replace_input_with(0, insert(node, "Transpose", [first], shape[::-1], {"perm": (1, 0)}, name))
    node.attributes["transA"] = attr("transA", 0)
    return True


def _swapped(rank: int) -> tuple[int, ...]:
    return (*range(rank - 2), rank - 1, rank - 2)


def _constant_second(model: ir.Model, node: ir.Node) -> bool:
    first, second = node.inputs[0], node.inputs[1]
    array = graph.constant(first)
    if first is None or second is None or array is None or graph.constant(second) is not None:
        return False
    shape, out = graph.known_shape(second), graph.known_shape(node.outputs[0])
    if array.ndim != 2 or shape is None or out is None or len(shape) < 2:
        return False
    name, perm = graph.node_name(node), _swapped(len(shape))
    node.name = f"{name}_replaced"
    turned = insert(node, "Transpose", [second], [shape[i] for i in perm], {"perm": perm}, f"{name}_transpose_input")
    weight = new_constant(model, f"{first.name}_transposed", array.T)
    product = insert(node, "MatMul", [turned, weight], [out[i] for i in perm], name=name)
    take_place(
        model,
        node.outputs[0],
        insert(node, "Transpose", [product], out, {"perm": perm}, f"{name}_transpose_output"),
    )
    return True


@dataclass(frozen=True)
class _Letters:
    """The axes of a two-operand Einsum by role: in both and kept, rows, columns, summed; and as written."""

    first: str
    second: str
    out: str
    batch: str
    rows: str
    columns: str
    summed: str


def _letters(equation: str) -> _Letters | None:
    operands, arrow, out = equation.replace(" ", "").partition("->")
    first, comma, second = operands.partition(",")
    if not arrow or not comma or "," in second or not all(map(str.isalpha, (first, second, out))):
        return None
    if any(len(set(s)) != len(s) for s in (first, second, out)):
        return None
    batch = "".join(c for c in out if c in first and c in second)
    rows = "".join(c for c in first if c not in second)
    columns = "".join(c for c in second if c not in first)
    summed = "".join(c for c in first if c in second and c not in out)
    if any(c not in out for c in rows + columns) or len(rows) != 1 or len(columns) != 1 or len(summed) != 1:
        return None
    return _Letters(first, second, out, batch, rows, columns, summed)


def _as_matmul(model: ir.Model, node: ir.Node) -> bool:
    letters = _letters(graph.attribute(node, "equation", ""))
    if letters is None or len(node.inputs) != 2 or any(v is None or graph.known_shape(v) is None for v in node.inputs):
        return False
    first, second = node.inputs
    assert first is not None and second is not None
    sizes = dict(zip(letters.first, graph.static_shape(first), strict=True))
    sizes |= dict(zip(letters.second, graph.static_shape(second), strict=True))
    name = graph.node_name(node)
    node.name = f"{name}_replaced"

    def turned(value: ir.Value, have: str, want: str, label: str) -> ir.Value:
        if have == want:
            return value
        perm = [have.index(c) for c in want]
        return insert(node, "Transpose", [value], [sizes[c] for c in want], {"perm": perm}, f"{name}_{label}")

    left = turned(first, letters.first, letters.batch + letters.rows + letters.summed, "transpose_first")
    right = turned(second, letters.second, letters.batch + letters.summed + letters.columns, "transpose_second")
    written = letters.batch + letters.rows + letters.columns
    product = insert(node, "MatMul", [left, right], [sizes[c] for c in written], name=name)
    take_place(model, node.outputs[0], turned(product, written, letters.out, "transpose_output"))
    return True
