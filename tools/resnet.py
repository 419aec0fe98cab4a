"""ResNets of any depth as ONNX graphs with random weights: the convolutions and additions of the published networks."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RESNET50 = (3, 4, 6, 3)
"""Bottleneck blocks of each stage."""


def resnet(blocks: tuple[int, ...] = RESNET50, seed: int = 0) -> onnx.ModelProto:
    """A ResNet of bottleneck blocks for images [1, 3, 224, 224]: batch normalization is folded, as exporters do."""
    net = _Builder(seed)
    x = net.relu(net.conv("image", 3, 64, 7, 2))
    x = net.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = 64
    for stage, count in enumerate(blocks):
        inner = 64 << stage
        for block in range(count):
            stride = 2 if block == 0 and stage else 1
            y = net.relu(net.conv(x, inputs, inner, 1, 1))
            y = net.relu(net.conv(y, inner, inner, 3, stride))
            y = net.conv(y, inner, 4 * inner, 1, 1)
            if block == 0:
                x = net.conv(x, inputs, 4 * inner, 1, stride)
            x = net.relu(net.node("Add", [y, x]))
            inputs = 4 * inner
    x = net.node("GlobalAveragePool", [x])
    y = net.conv(x, inputs, 1000, 1, 1)
    graph = helper.make_graph(
        net.nodes,
        "resnet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 224, 224))],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, (1, 1000, 1, 1))],
        net.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


class _Builder:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int) -> str:
        shape = (outputs, inputs, kernel, kernel)
        weight = (self.rng.standard_normal(shape) / np.sqrt(inputs * kernel * kernel)).astype(np.float32)
        return self.node(
            "Conv",
            [x, self._constant(weight), self._constant(np.zeros(outputs, np.float32))],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
        )

    def _constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name
