"""Who can read and write int16: the rules that come from lists, and the bound that keeps sums inside int32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.ops.int16 import LARGEST_WEIGHT_SUM, int16_refusal
from hbtool.ops.op import Family, float_op


def node(op_type: str, weight: np.ndarray | None = None) -> ir.Node:
    x = ir.Value(name="x", shape=ir.Shape((1, 8, 4, 4)), type=ir.TensorType(ir.DataType.FLOAT))
    inputs = [x]
    if op_type == "MatMul":
        inputs.append(ir.Value(name="b", shape=ir.Shape((1, 8, 4, 4)), type=ir.TensorType(ir.DataType.FLOAT)))
    if weight is not None:
        inputs.append(ir.Value(name="w", const_value=ir.tensor(weight, name="w"), shape=ir.Shape(weight.shape)))
    return ir.Node("", op_type, inputs, outputs=[ir.Value(name="y")], name="n")


def refusal(n: ir.Node, family: Family, position: int | None) -> str | None:
    op = float_op(n)
    assert op is not None
    return int16_refusal(op, n, family, position)


@pytest.mark.parametrize(
    ("op_type", "family", "position", "part"),
    [
        ("Sigmoid", "bernoulli2", 0, "bernoulli2 has no int16"),
        ("Resize", "bayes-e", 0, "int8 only"),
        ("AveragePool", "bayes", None, "int8 only"),
        ("MatMul", "bayes-e", 1, "input 1 of MatMul is int8"),
        ("MatMul", "bayes-e", 0, None),
        ("MatMul", "nash", 1, None),
        ("Sigmoid", "bayes", None, None),
        ("MaxPool", "bayes-e", 0, None),
        ("Resize", "nash", 0, None),
    ],
)
def test_the_lists(op_type: str, family: Family, position: int | None, part: str | None) -> None:
    found = refusal(node(op_type), family, position)
    assert found is None if part is None else part in str(found)


def test_sums_stay_inside_int32() -> None:
    """Weights of equal size quantize to 127: 516 of them add up to 65532, 517 to 65659."""
    assert 516 * 127 <= LARGEST_WEIGHT_SUM < 517 * 127
    fits, too_many = np.full((2, 516, 1, 1), 0.3, np.float32), np.full((2, 517, 1, 1), -0.3, np.float32)
    assert refusal(node("Conv", fits), "bayes-e", 0) is None
    assert "could leave int32" in str(refusal(node("Conv", too_many), "bayes-e", 0))
    assert refusal(node("Conv", too_many), "bayes-e", None) is None
    assert 516 * 127 * 2**15 < 2**31 <= 517 * 127 * 2**15
