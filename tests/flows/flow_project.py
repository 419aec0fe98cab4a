"""A small model with all kinds of borders, and somebody who listens to a flow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hbtool.flows.makertbin import BuildResult

Build = Callable[..., BuildResult]


class Listening:
    """Collects what a flow says."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def progress(self, label: str, total: int):
        from hbtool.flows.talk import Quiet

        return Quiet().progress(label, total)


def two_tails(path: Path) -> Path:
    """x -> conv1 -> bn -> silu -> pool -> conv2 -> {transpose -> softmax -> y, z}; its own names for all nodes."""
    rng = np.random.default_rng(2)
    constants: list[onnx.TensorProto] = []

    def const(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(array, name))
        return name

    def weights(name: str, *shape: int) -> str:
        return const(name, (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    bn = [const(n, rng.uniform(0.5, 1.5, 8).astype(np.float32)) for n in ("gamma", "beta", "mean", "var")]
    nodes = [
        helper.make_node("Conv", ["x", weights("w1", 8, 3, 3, 3)], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", *bn], ["b1"], "bn"),
        helper.make_node("Sigmoid", ["b1"], ["s1"], "sigmoid"),
        helper.make_node("Mul", ["b1", "s1"], ["m1"], "silu"),
        helper.make_node("AveragePool", ["m1"], ["p1"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Identity", ["p1"], ["i1"], "nothing"),
        helper.make_node("Conv", ["i1", weights("w2", 6, 8, 1, 1)], ["z"], "conv2"),
        helper.make_node("Transpose", ["z"], ["t"], "transpose", perm=[0, 2, 3, 1]),
        helper.make_node("Softmax", ["t"], ["y"], "softmax", axis=-1),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "two_tails",
        [info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [info("y", TensorProto.FLOAT, [1, 4, 4, 6]), info("z", TensorProto.FLOAT, [1, 6, 4, 4])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
