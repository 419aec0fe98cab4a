"""Small models that the tests of the PyTorch side share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional as TorchFloatFunctional

from hbtool.nn.functional_module import FloatFunctional
from hbtool.quantization import DeQuantStub, QuantStub


class ConvBnRelu(nn.Sequential):
    def __init__(self, channels: int = 3) -> None:
        super().__init__(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())


class ConvAddRelu(nn.Module):
    def __init__(self, channels: int = 3, bn: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels) if bn else nn.Identity()
        self.relu = nn.ReLU()
        self.add = TorchFloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.add.add(x, self.bn(self.conv(x))))


class Plain(nn.Module):
    """The non-hybrid model of the seed document."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = QuantStub()
        self.layer0 = ConvBnRelu()
        self.layer1 = ConvAddRelu()
        self.layer2 = ConvAddRelu(bn=True)
        self.conv1 = nn.Conv2d(3, 3, 1)
        self.dequant = DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.layer0(self.quant(x))))
        return self.dequant(self.conv1(x))


class ConvRelu(nn.Sequential):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.relu = nn.ReLU()


class SeluModule(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.selu(x)


class Hybrid(nn.Module):
    """The hybrid model of the seed document."""

    def __init__(self) -> None:
        super().__init__()
        self.layer0, self.layer1, self.layer2 = ConvRelu(), ConvRelu(), ConvRelu()
        self.selu = SeluModule()
        self.conv0, self.conv1 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.dequant = DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.selu(self.layer0(self.selu(x)))
        x = self.conv1(self.conv0(self.layer2(self.layer1(x))))
        return self.dequant(self.selu(x))


HYBRID_DICT = {"module_name": ["layer1.conv", "conv0"], "module_type": [SeluModule]}


class GoldenChain(nn.Module):
    """The chain whose scales the published documentation prints."""

    def __init__(self) -> None:
        super().__init__()
        self.quant_stubx, self.quant_stuby = QuantStub(), QuantStub()
        self.mul_op, self.cat_op = FloatFunctional(), FloatFunctional()
        self.relu, self.sigmoid, self.softmax, self.silu = nn.ReLU(), nn.Sigmoid(), nn.Softmax(dim=1), nn.SiLU()
        self.avgpool = nn.AvgPool2d(4)
        self.up1 = nn.UpsamplingBilinear2d(scale_factor=1.3)
        self.up2 = nn.UpsamplingBilinear2d(scale_factor=0.7)
        self.dequant = DeQuantStub()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.quant_stubx(x), self.quant_stuby(y)
        z = self.cat_op.cat([x, self.mul_op.mul(x, y)], 1)
        z = self.cat_op.cat([z, y], 1)
        z = self.silu(self.softmax(self.sigmoid(self.relu(z))))
        z = F.interpolate(z, scale_factor=2, mode="bilinear", align_corners=False)
        z = F.interpolate(z, scale_factor=2.3, mode="bilinear", align_corners=False)
        return self.dequant(self.up2(self.up1(self.avgpool(z))))


def golden_input() -> Tensor:
    return (torch.arange(48) / 100 + 1).reshape(1, 3, 4, 4)
