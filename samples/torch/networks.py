"""MobileNetV2 and ResNet-18 with quantization stubs, in plain torch; MobileNetV2 takes the tensors of an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.ao.quantization import DeQuantStub, QuantStub


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: type | None = nn.ReLU6):
    """Convolution, batch normalization and, if given, the activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([relu()] if relu else []))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; a sum where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        first = [conv_bn(inputs, hidden, 1)] if expand > 1 else []
        self.conv = nn.Sequential(
            *first, conv_bn(hidden, hidden, 3, stride, hidden), conv_bn(hidden, outputs, 1, relu=None)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Images [N, 3, H, W] in -1..1; [N, classes] logits."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        table = [
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ]
        layers: list[nn.Module] = [conv_bn(3, 32, 3, 2)]
        channels = 32
        for expand, outputs, count, stride in table:
            for index in range(count):
                layers.append(InvertedResidual(channels, outputs, stride if index == 0 else 1, expand))
                channels = outputs
        self.features = nn.Sequential(*layers, conv_bn(channels, 1280, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(self.quant(x)))
        return self.dequant(self.classifier(torch.flatten(x, 1)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride, relu=nn.ReLU)
        self.second = conv_bn(outputs, outputs, 3, relu=None)
        self.down = conv_bn(inputs, outputs, 1, stride, relu=None) if stride > 1 or inputs != outputs else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.first(x)) + self.down(x))


class ResNet18(nn.Module):
    """Images [N, 3, H, W]; [N, classes] logits."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.stem = nn.Sequential(conv_bn(3, 64, 7, 2, relu=nn.ReLU), nn.MaxPool2d(3, 2, 1))
        widths = [64, 64, 128, 128, 256, 256, 512, 512]
        inputs = [64, *widths[:-1]]
        strides = [2 if a != b else 1 for a, b in zip(inputs, widths, strict=True)]
        self.layers = nn.Sequential(*map(BasicBlock, inputs, widths, strides))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.layers(self.stem(self.quant(x))))
        return self.dequant(self.fc(torch.flatten(x, 1)))


def mobilenet_v2(weights: str | Path | None = None) -> MobileNetV2:
    """MobileNetV2; `weights` is an ONNX file of the same network with its batch normalizations absorbed."""
    model = MobileNetV2().eval()
    if weights is not None:
        load_onnx(model, weights)
    return model


def resnet18() -> ResNet18:
    """ResNet-18 with random weights."""
    return ResNet18().eval()


@torch.no_grad()
def load_onnx(model: nn.Module, path: str | Path) -> None:
    """Give the model the tensors of an ONNX file whose Conv and Gemm nodes stand in the order of its layers.

    Each absorbed batch normalization becomes one that only adds the bias; asymmetric padding of a stride-2 layer (as
    TensorFlow pads) becomes a zero padding in front of it.
    """
    graph = onnx.load(path).graph
    tensors = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    nodes = [n for n in graph.node if n.op_type in ("Conv", "Gemm")]
    holders = [m for m in model.modules() if isinstance(m, nn.Sequential) and _is_conv_bn(m)]
    layers: list[tuple[nn.Module, nn.Module | None, nn.Sequential | None]] = [(h[0], h[1], h) for h in holders]
    layers += [(m, None, None) for m in model.modules() if isinstance(m, nn.Linear)]
    if len(nodes) != len(layers):
        raise ValueError(f"{path} has {len(nodes)} layers, the model {len(layers)}")
    for node, (layer, norm, holder) in zip(nodes, layers, strict=True):
        weight, bias = tensors[node.input[1]], tensors[node.input[2]]
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        weight = weight.t() if node.op_type == "Gemm" and not given.get("transB", 0) else weight
        # A classifier may be a 1x1 convolution in the file.
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if norm is None:
            layer.bias.copy_(bias)
            continue
        norm.running_var.fill_(1.0 - norm.eps)
        norm.bias.copy_(bias)
        top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
        if (top, left) != (bottom, right) and holder is not None:
            layer.padding = (0, 0)
            holder.insert(0, nn.ZeroPad2d((left, right, top, bottom)))


def _is_conv_bn(module: nn.Sequential) -> bool:
    return len(module) >= 2 and isinstance(module[0], nn.Conv2d) and isinstance(module[1], nn.BatchNorm2d)
