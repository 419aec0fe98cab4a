"""The reference's list of ONNX operators (op_support.csv) against hbtool: every row, every family, the same device.

The devices must agree row by row; what differs is listed below with its reason. The numbers of the conditions are tried
on both sides of the limit.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.ops.op import Family, float_op, float_ops

FAMILIES: dict[str, Family] = {"bernoulli2": "bernoulli2", "bayes": "bayes", "bayes_e": "bayes-e"}

OTHERWISE = {
    "Dropout": "folded away as listed; the rule is for graphs with trained ranges, whose nodes stay",
    "Identity": "folded away; the rule is for graphs with trained ranges, whose nodes stay",
    "GreaterOrEqual": "the list has it as Not(Less) with the limits of Less, and Less is on request",
    "LessOrEqual": "the list has it as Not(Greater) with the limits of Greater, and Greater is on request",
    "Upsample": "becomes Resize when the model is read (test_upsample_is_read_as_resize)",
}


def rows(shared: Path) -> list[dict[str, str]]:
    with (shared / "reference" / "op_support.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["framework"] == "onnx"]


def verdict(op_type: str, family: Family) -> str:
    op = float_ops().get(("", op_type))
    if op is None or family not in op.families_of(op_type):
        return "CPU"
    return "BPU-manual" if op.manual else "BPU"


def test_every_row_has_the_listed_device(shared_dir: Path) -> None:
    different = {}
    for row in rows(shared_dir):
        for column, family in FAMILIES.items():
            listed = row[f"{column}_device"]
            wanted = listed if listed.startswith("BPU") else "CPU"
            if verdict(row["op"], family) != wanted and row["op"] not in OTHERWISE:
                different[row["op"], family] = (listed, verdict(row["op"], family))
    assert different == {}
    assert len(rows(shared_dir)) > 150


def refusal(
    family: Family,
    op_type: str,
    inputs: list[tuple[int, ...]],
    constants: dict[int, np.ndarray] | None = None,
    followed: bool = True,
    **attributes: object,
) -> str | None:
    """Why the BPU of `family` does not take a node, None if it does; `followed`: something reads the result."""
    names, initializers = [], []
    computed = iter(inputs)
    values = []
    for position in range(len(inputs) + len(constants or {})):
        if position in (constants or {}):
            initializers.append(numpy_helper.from_array(constants[position], f"c{position}"))
            names.append(f"c{position}")
        else:
            values.append(helper.make_tensor_value_info(f"x{position}", 1, next(computed)))
            names.append(f"x{position}")
    nodes = [helper.make_node(op_type, names, ["y"], name="n", **attributes)]
    if followed:
        nodes.append(helper.make_node("Relu", ["y"], ["z"], name="after"))
    outputs = [helper.make_empty_tensor_value_info("z" if followed else "y")]
    graph = helper.make_graph(nodes, "g", values, outputs, initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    node = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)).graph[0]
    op = float_op(node)
    assert op is not None
    return op.refusal(node, family)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def conv(family: Family, weight: tuple[int, ...], size: int = 16, **attributes: object) -> str | None:
    channels = weight[1] * int(str(attributes.get("group", 1)))
    return refusal(family, "Conv", [(1, channels, size, size)], {1: zeros(*weight)}, **attributes)


def transposed(family: Family, weight: tuple[int, ...], **attributes: object) -> str | None:
    return refusal(family, "ConvTranspose", [(1, weight[0], 8, 8)], {1: zeros(*weight)}, **attributes)


LIMITS = {
    "Conv kernel, X3": (conv("bernoulli2", (4, 4, 7, 7)), conv("bernoulli2", (4, 4, 8, 8))),
    "Conv kernel, X5": (conv("bayes-e", (4, 4, 31, 31), 64), conv("bayes-e", (4, 4, 32, 32), 64)),
    "Conv weights per channel, X5": (conv("bayes-e", (1, 3640, 3, 3)), conv("bayes-e", (1, 3641, 3, 3))),
    "Conv weights per channel, J5": (conv("bayes", (1, 7281, 3, 3)), conv("bayes", (1, 7282, 3, 3))),
    "Conv dilation": (
        conv("bayes-e", (4, 4, 3, 3), 64, dilations=[16, 16]),
        conv("bayes-e", (4, 4, 3, 3), 68, dilations=[17, 17]),
    ),
    "Conv dilation and stride": (
        conv("bayes", (4, 4, 3, 3), dilations=[2, 2]),
        conv("bayes", (4, 4, 3, 3), dilations=[2, 2], strides=[2, 2]),
    ),
    "ConvTranspose channels": (
        transposed("bayes-e", (2048, 1, 2, 2), strides=[2, 2]),
        transposed("bayes-e", (2049, 1, 2, 2), strides=[2, 2]),
    ),
    "ConvTranspose kernel": (
        transposed("bayes", (2, 2, 14, 14), strides=[2, 2]),
        transposed("bayes", (2, 2, 15, 15), strides=[2, 2]),
    ),
    "ConvTranspose kernel, X3": (
        transposed("bernoulli2", (2, 2, 2, 2), strides=[2, 2]),
        transposed("bernoulli2", (2, 2, 1, 2), strides=[2, 2]),
    ),
    "ConvTranspose stride, X3": (
        transposed("bernoulli2", (2, 2, 4, 4), strides=[4, 4]),
        transposed("bernoulli2", (2, 2, 4, 4), strides=[3, 3]),
    ),
    "ConvTranspose stride, X5": (
        transposed("bayes-e", (2, 2, 3, 3), strides=[1, 2]),
        transposed("bayes-e", (2, 2, 3, 3), strides=[1, 1]),
    ),
    "ConvTranspose padding, X5": (
        transposed("bayes-e", (2, 2, 4, 4), strides=[2, 2], pads=[2, 2, 2, 2]),
        transposed("bayes-e", (2, 2, 4, 4), strides=[2, 2], pads=[3, 3, 3, 3]),
    ),
    "ConvTranspose padding, odd stride": (
        transposed("bayes-e", (2, 2, 4, 4), strides=[3, 3], pads=[1, 1, 1, 1]),
        transposed("bayes-e", (2, 2, 3, 3), strides=[3, 3], pads=[1, 1, 1, 1]),
    ),
    "ConvTranspose padding, X3": (
        transposed("bernoulli2", (2, 2, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]),
        transposed("bernoulli2", (2, 2, 4, 4), strides=[2, 2], pads=[2, 2, 2, 2]),
    ),
    "ConvTranspose output_padding": (
        transposed("bayes-e", (2, 2, 4, 4), strides=[4, 4], output_padding=[1, 1]),
        transposed("bayes-e", (2, 2, 4, 4), strides=[4, 4], output_padding=[2, 2]),
    ),
    "Div shapes, X3": (
        refusal("bernoulli2", "Div", [(1, 4, 5, 6), (1, 4, 1, 1)]),
        refusal("bernoulli2", "Div", [(1, 4, 5, 6), (1, 1, 5, 6)]),
    ),
    "Mul channels, X3": (
        refusal("bernoulli2", "Mul", [(1, 2048, 1, 1), (1, 2048, 1, 1)]),
        refusal("bernoulli2", "Mul", [(1, 2049, 1, 1), (1, 2049, 1, 1)]),
    ),
    "Add batch broadcast, J5": (
        refusal("bayes", "Add", [(2, 4, 5, 6), (2, 1, 5, 6)]),
        refusal("bayes", "Add", [(2, 4, 5, 6), (1, 4, 5, 6)]),
    ),
    "MatMul of two activations, X3": (
        refusal("bernoulli2", "MatMul", [(1, 3, 6, 8), (1, 1, 8, 5)]),
        refusal("bernoulli2", "MatMul", [(1, 3, 6, 8), (1, 3, 8, 5)]),
    ),
    "MatMul sizes": (
        refusal("bayes-e", "MatMul", [(1, 8192), (8192, 4)]),
        refusal("bayes-e", "MatMul", [(1, 8193), (8193, 4)]),
    ),
    "MatMul batch": (
        refusal("bayes", "MatMul", [(4096, 2, 2), (4096, 2, 2)]),
        refusal("bayes", "MatMul", [(4097, 2, 2), (4097, 2, 2)]),
    ),
    "MatMul broadcast of the first": (
        refusal("bayes-e", "MatMul", [(1, 1, 6, 8), (2, 3, 8, 5)]),
        refusal("bayes-e", "MatMul", [(1, 3, 6, 8), (2, 3, 8, 5)]),
    ),
    "MatMul broadcast of the second": (
        refusal("bayes-e", "MatMul", [(2, 3, 6, 8), (2, 1, 8, 5)]),
        refusal("bayes-e", "MatMul", [(2, 3, 6, 8), (1, 3, 8, 5)]),
    ),
    "Gemm at the end": (
        refusal("bayes-e", "Gemm", [(1, 4)], {1: zeros(4, 65536)}, followed=False),
        refusal("bayes-e", "Gemm", [(1, 4)], {1: zeros(4, 65536)}),
    ),
    "AveragePool window, X3": (
        refusal("bernoulli2", "AveragePool", [(1, 4, 9, 9)], kernel_shape=[7, 7]),
        refusal("bernoulli2", "AveragePool", [(1, 4, 9, 9)], kernel_shape=[8, 8]),
    ),
    "AveragePool window, X5": (
        refusal("bayes-e", "AveragePool", [(1, 1, 64, 200)], kernel_shape=[64, 128]),
        refusal("bayes-e", "AveragePool", [(1, 1, 64, 200)], kernel_shape=[64, 129]),
    ),
    "GlobalAveragePool, X3": (
        refusal("bernoulli2", "GlobalAveragePool", [(1, 4, 64, 128)]),
        refusal("bernoulli2", "GlobalAveragePool", [(1, 4, 64, 129)]),
    ),
    "GlobalMaxPool, X5": (
        refusal("bayes-e", "GlobalMaxPool", [(1, 4, 256, 8)]),
        refusal("bayes-e", "GlobalMaxPool", [(1, 4, 257, 8)]),
    ),
    "MaxPool window, X3": (
        refusal("bernoulli2", "MaxPool", [(1, 4, 64, 64)], kernel_shape=[64, 64]),
        refusal("bernoulli2", "MaxPool", [(1, 4, 65, 65)], kernel_shape=[65, 65]),
    ),
    "DepthToSpace": (
        refusal("bayes-e", "DepthToSpace", [(1, 8, 4, 4)], blocksize=2),
        refusal("bayes-e", "DepthToSpace", [(1, 9, 4, 4)], blocksize=3),
    ),
    "ReduceMax axis": (
        refusal("bayes-e", "ReduceMax", [(1, 8192, 2)], {1: np.array([1])}),
        refusal("bayes-e", "ReduceMax", [(1, 8193, 2)], {1: np.array([1])}),
    ),
    "ReduceMean axes": (
        refusal("bayes-e", "ReduceMean", [(1, 4, 6, 8)], {1: np.array([2, 3])}),
        refusal("bayes-e", "ReduceMean", [(1, 4, 6, 8)], {1: np.array([1, 2])}),
    ),
    "Softmax axis": (
        refusal("bayes", "Softmax", [(1, 4, 6, 8)], axis=3),
        refusal("bayes", "Softmax", [(1, 4, 6)], axis=2),
    ),
    "Resize factors": (
        refusal(
            "bayes-e", "Resize", [(1, 4, 6, 8)], {1: zeros(0), 2: np.array([1, 1, 2, 4], np.float32)}, mode="nearest"
        ),
        refusal(
            "bayes-e", "Resize", [(1, 4, 6, 8)], {1: zeros(0), 2: np.array([1, 1, 3, 3], np.float32)}, mode="nearest"
        ),
    ),
    "Expand": (
        refusal("bayes-e", "Expand", [(1, 4, 1, 1)], {1: np.array([1, 4, 6, 1])}),
        refusal("bayes-e", "Expand", [(1, 4, 1, 1)], {1: np.array([1, 4, 6, 6])}),
    ),
    "PRelu rank, X5": (
        refusal("bayes-e", "PRelu", [(1, 4, 6, 8)], {1: zeros(4, 1, 1)}),
        refusal("bayes-e", "PRelu", [(1, 4, 6)], {1: zeros(4, 1)}),
    ),
    "Sigmoid size, X3": (
        refusal("bernoulli2", "Sigmoid", [(1, 4, 16, 128)]),
        refusal("bernoulli2", "Sigmoid", [(1, 5, 16, 128)]),
    ),
    "rank": (refusal("bayes-e", "Sigmoid", [(1,) * 10]), refusal("bayes-e", "Sigmoid", [(1,) * 11])),
    "first dimension": (refusal("bayes", "Sigmoid", [(4096, 1)]), refusal("bayes", "Sigmoid", [(4097, 1)])),
    "other dimensions": (refusal("bayes", "Sigmoid", [(1, 65536)]), refusal("bayes", "Sigmoid", [(1, 65537)])),
}
"""Condition -> (refusal at the limit, refusal beyond it)."""


@pytest.mark.parametrize("name", list(LIMITS))
def test_the_listed_limit_is_the_limit(name: str) -> None:
    at, beyond = LIMITS[name]
    assert at is None
    assert beyond is not None
    assert beyond.startswith("the BPU needs ")


def test_upsample_is_read_as_resize() -> None:
    from hbtool.ir.load import prepare_model

    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")
    node = helper.make_node("Upsample", ["x", "s"], ["y"], name="up", mode="nearest")
    x = helper.make_tensor_value_info("x", 1, (1, 3, 4, 5))
    y = helper.make_tensor_value_info("y", 1, (1, 3, 8, 10))
    proto = helper.make_model(
        helper.make_graph([node], "g", [x], [y], [scales]), opset_imports=[helper.make_opsetid("", 9)], ir_version=8
    )
    assert [n.op_type for n in prepare_model(proto, "up").graph] == ["Resize"]
