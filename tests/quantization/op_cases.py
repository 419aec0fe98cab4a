"""One small model for each row of the vendor's operator table: float_op -> what to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hbtool import nn as hnn
from hbtool.nn import FloatFunctional
from hbtool.quantization import DeQuantStub, QuantStub

IMAGE = (1, 4, 6, 6)
MATRIX = (1, 6, 8)


@dataclass(frozen=True)
class Case:
    """A model body between stubs.

    Attributes:
        body: what to compute, from the model (its children are `parts`) and its quantized inputs.
        parts: makes the children.
        shapes: shape of each input.
        limits: range of the random inputs.
    """

    body: Callable[..., Any]
    parts: Callable[[], dict[str, nn.Module]] = dict
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)
    limits: tuple[float, float] = (-2.0, 2.0)


class Branch(nn.Module):
    """stubs -> body -> dequant; a result that is no real number leaves as it is."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.stubs = nn.ModuleList(QuantStub() for _ in case.shapes)
        self.dequant = DeQuantStub()
        self.body = case.body
        for name, part in case.parts().items():
            self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.dequant(self.body(self, *(stub(v) for stub, v in zip(self.stubs, inputs, strict=True))))


class OpsNet(nn.Module):
    """One branch for each case; the inputs of all cases in order, one output for each."""

    def __init__(self, cases: dict[str, Case]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch(c) for c in cases.values())
        self.counts = [len(c.shapes) for c in cases.values()]

    def run(self, inputs: list[Tensor]) -> tuple[Any, ...]:
        waiting = iter(inputs)
        return tuple(
            branch(*(next(waiting) for _ in range(count)))
            for branch, count in zip(self.branches, self.counts, strict=True)
        )


def ops_net(cases: dict[str, Case]) -> OpsNet:
    """The network, with a forward that names its inputs (tracing reads the names)."""
    names = ", ".join(f"x{i}" for i in range(sum(len(c.shapes) for c in cases.values())))
    scope: dict[str, Any] = {}
    exec(f"def forward(self, {names}): return self.run([{names}])", scope)
    made: OpsNet = type("OpsNet", (OpsNet,), {"forward": scope["forward"]})(cases)
    return made


def unary(function: Callable[[Tensor], Tensor], low: float = -2.0, high: float = 2.0, **more: Any) -> Case:
    """A function of one variable on its domain."""
    return Case(lambda m, x: function(x), limits=(low, high), **more)


def binary(function: Callable[[Tensor, Tensor], Any], **more: Any) -> Case:
    """A function of two tensors of one shape."""
    return Case(lambda m, x, y: function(x, y), shapes=(IMAGE, IMAGE), **more)


def module(build: Callable[[], nn.Module], shape: tuple[int, ...] = IMAGE, **more: Any) -> Case:
    """A torch module."""
    return Case(lambda m, x: m.part(x), lambda: {"part": build()}, (shape,), **more)


def behind_conv(build: Callable[[], nn.Module]) -> Case:
    """A module that changes nothing, behind a convolution."""
    return Case(lambda m, x: m.part(m.conv(x)), lambda: {"conv": nn.Conv2d(4, 4, 1), "part": build()})


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


_index = torch.tensor([[[[2, 0, 1, 1]]]]).expand(1, 4, 6, 4).contiguous()
_mask = torch.arange(36).reshape(1, 1, 6, 6) % 3 == 0

CASES: dict[str, Case] = {
    "torch.abs": unary(torch.abs),
    "torch.acos": unary(torch.acos, -0.95, 0.95),
    "torch.acosh": unary(torch.acosh, 1.1, 4),
    "torch.add": binary(torch.add),
    "torch.argmax": unary(lambda x: torch.argmax(x, 1)),
    "torch.argmin": unary(lambda x: torch.argmin(x, 1)),
    "torch.asin": unary(torch.asin, -0.95, 0.95),
    "torch.asinh": unary(torch.asinh),
    "torch.atan": unary(torch.atan),
    "torch.atanh": unary(torch.atanh, -0.9, 0.9),
    "torch.cat": binary(lambda x, y: torch.cat([x, y], 1)),
    "torch.ceil": unary(torch.ceil),
    "torch.clamp": unary(lambda x: torch.clamp(x, -1, 1.5)),
    "torch.clip": unary(lambda x: torch.clip(x, min=-1)),
    "torch.cos": unary(torch.cos),
    "torch.cosh": unary(torch.cosh),
    "torch.div": binary(lambda x, y: torch.div(x, y), limits=(0.5, 2.0)),
    "torch.eq": binary(torch.eq),
    "torch.erf": unary(torch.erf),
    "torch.exp": unary(torch.exp),
    "torch.floor": unary(torch.floor),
    "torch.gather": unary(lambda x: torch.gather(x, 3, _index)),
    "torch.ge": binary(torch.ge),
    "torch.greater": binary(torch.greater),
    "torch.greater_equal": binary(torch.greater_equal),
    "torch.gt": binary(torch.gt),
    "torch.le": binary(torch.le),
    "torch.less": binary(torch.less),
    "torch.less_equal": binary(torch.less_equal),
    "torch.log": unary(torch.log, 0.3, 4),
    "torch.lt": binary(torch.lt),
    "torch.matmul": Case(lambda m, x, y: torch.matmul(x, y), shapes=((1, 2, 5, 8), (1, 2, 8, 6))),
    "torch.max": unary(lambda x: torch.max(x, 1, keepdim=True)[0]),
    "torch.maximum": binary(torch.maximum),
    "torch.mean": unary(lambda x: torch.mean(x, 1, keepdim=True)),
    "torch.min": unary(lambda x: torch.min(x, 1, keepdim=True)[0]),
    "torch.minimum": binary(torch.minimum),
    "torch.mul": binary(torch.mul),
    "torch.pow": unary(lambda x: torch.pow(x, 3)),
    "torch.reciprocal": unary(torch.reciprocal, 0.5, 4),
    "torch.selu": unary(torch.selu),
    "torch.sin": unary(torch.sin),
    "torch.sinh": unary(torch.sinh),
    "torch.split": unary(lambda x: torch.split(x, 2, 1)[1]),
    "torch.sqrt": unary(torch.sqrt, 0.1, 4),
    "torch.sub": binary(torch.sub),
    "torch.sum": unary(lambda x: torch.sum(x, 1, keepdim=True)),
    "torch.tan": unary(torch.tan, -1, 1),
    "torch.topk": unary(lambda x: torch.topk(x, 2, 1)[0]),
    "torch.nn.functional.grid_sample": Case(
        lambda m, x, g: F.grid_sample(x, g, mode="bilinear", padding_mode="zeros", align_corners=True),
        shapes=(IMAGE, (1, 5, 5, 2)),
        limits=(-1.1, 1.1),
    ),
    "torch.nn.functional.interpolate": unary(
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False, recompute_scale_factor=True)
    ),
    "torch.nn.functional.pad": unary(lambda x: F.pad(x, (1, 2, 0, 1), value=0.0)),
    "torch.nn.functional.relu": unary(F.relu),
    "torch.nn.functional.relu6(fused)": Case(
        lambda m, x: F.relu6(m.part(x)), lambda: {"part": nn.Conv2d(4, 4, 1)}, limits=(-9, 9)
    ),
    "torch.nn.AdaptiveAvgPool2d": module(lambda: nn.AdaptiveAvgPool2d(1)),
    "torch.nn.AvgPool2d": module(lambda: nn.AvgPool2d(3, 2, 1)),
    "torch.nn.BatchNorm2d": module(lambda: nn.BatchNorm2d(4)),
    "torch.nn.BatchNorm3d": module(lambda: nn.BatchNorm3d(4), (1, 4, 3, 5, 5)),
    "torch.nn.ChannelShuffle": module(lambda: nn.ChannelShuffle(2)),
    "torch.nn.ConstantPad2d": module(lambda: nn.ConstantPad2d((1, 0, 2, 1), 0.5)),
    "torch.nn.Conv2d": module(lambda: nn.Conv2d(4, 6, 3, 2, 1)),
    "torch.nn.Conv3d": module(lambda: nn.Conv3d(2, 4, 3, padding=1), (1, 2, 4, 5, 5)),
    "torch.nn.ConvTranspose2d": module(lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1)),
    "torch.nn.Dropout": behind_conv(nn.Dropout),
    "torch.nn.Dropout2d": behind_conv(nn.Dropout2d),
    "torch.nn.ELU": module(nn.ELU),
    "torch.nn.GELU": module(nn.GELU),
    "torch.nn.GLU": module(lambda: nn.GLU(1)),
    "torch.nn.HardSigmoid": module(nn.Hardsigmoid, limits=(-4, 4)),
    "torch.nn.Identity": behind_conv(nn.Identity),
    "torch.nn.LayerNorm": module(lambda: nn.LayerNorm(8), MATRIX),
    "torch.nn.LeakyReLU": module(nn.LeakyReLU),
    "torch.nn.Linear": module(lambda: nn.Linear(8, 5), (3, 8)),
    "torch.nn.Linear, rank 3": module(lambda: nn.Linear(8, 5), MATRIX),
    "torch.nn.LSTMCell": Case(
        lambda m, x, h, c: m.part(x, (h, c))[0],
        lambda: {"part": nn.LSTMCell(8, 6)},
        ((2, 8), (2, 6), (2, 6)),
    ),
    "torch.nn.MaxPool2d": module(lambda: nn.MaxPool2d(3, 2, 1)),
    "torch.nn.MultiheadAttention": module(_Attention, MATRIX),
    "torch.nn.PixelShuffle": module(lambda: nn.PixelShuffle(2)),
    "torch.nn.PixelUnshuffle": module(lambda: nn.PixelUnshuffle(2)),
    "torch.nn.PReLU": module(lambda: nn.PReLU(4)),
    "torch.nn.ReLU": module(nn.ReLU),
    "torch.nn.ReLU6": module(nn.ReLU6, limits=(-9, 9)),
    "torch.nn.ReplicationPad2d": module(lambda: nn.ReplicationPad2d(2)),
    "torch.nn.Sigmoid": module(nn.Sigmoid),
    "torch.nn.SiLU": module(nn.SiLU),
    "torch.nn.Softmax": module(lambda: nn.Softmax(1)),
    "torch.nn.Softplus": module(nn.Softplus),
    "torch.nn.SyncBatchNorm": module(lambda: nn.SyncBatchNorm(4)),
    "torch.nn.Tanh": module(nn.Tanh),
    "torch.nn.Upsample": module(lambda: nn.Upsample(scale_factor=2, mode="nearest")),
    "torch.nn.UpsamplingBilinear2d": module(lambda: nn.UpsamplingBilinear2d(scale_factor=1.5)),
    "torch.nn.UpsamplingNearest2d": module(lambda: nn.UpsamplingNearest2d(scale_factor=2)),
    "torch.nn.ZeroPad2d": module(lambda: nn.ZeroPad2d(1)),
    "torch.quantization.DeQuantStub": behind_conv(nn.Identity),
    "torch.quantization.QuantStub": behind_conv(nn.Identity),
    "torch.Tensor.__getitem__": unary(lambda x: x[:, 1:3, ::2]),
    "torch.Tensor.transpose": unary(lambda x: x.transpose(1, 2)),
    "torch.Tensor.argmax": unary(lambda x: x.argmax(1)),
    "torch.Tensor.argmin": unary(lambda x: x.argmin(1)),
    "torch.Tensor.clamp": unary(lambda x: x.clamp(0.25, 1.5)),
    "torch.Tensor.clip": unary(lambda x: x.clip(max=1)),
    "torch.Tensor.eq": binary(lambda x, y: x.eq(y)),
    "torch.Tensor.expand": Case(lambda m, x: x.expand(1, 4, 3, 6), shapes=((1, 4, 1, 6),)),
    "torch.Tensor.ge": binary(lambda x, y: x.ge(y)),
    "torch.Tensor.greater": binary(lambda x, y: x.greater(y)),
    "torch.Tensor.greater_equal": binary(lambda x, y: x.greater_equal(y)),
    "torch.Tensor.gt": binary(lambda x, y: x.gt(y)),
    "torch.Tensor.le": binary(lambda x, y: x.le(y)),
    "torch.Tensor.less": binary(lambda x, y: x.less(y)),
    "torch.Tensor.less_equal": binary(lambda x, y: x.less_equal(y)),
    "torch.Tensor.max": unary(lambda x: x.max(1, keepdim=True)[0]),
    "torch.Tensor.min": unary(lambda x: x.min(1, keepdim=True)[0]),
    "torch.Tensor.repeat": unary(lambda x: x.repeat(1, 2, 1, 1)),
    "torch.Tensor.reshape": unary(lambda x: x.reshape(1, 4, 36)),
    "torch.Tensor.tile": unary(lambda x: x.tile(1, 1, 2, 1)),
    "torch.Tensor.abs": unary(lambda x: x.abs()),
    "torch.add_scalar": Case(lambda m, x: m.part.add_scalar(x, 0.7), lambda: {"part": FloatFunctional()}),
    "torch.mul_scalar": Case(lambda m, x: m.part.mul_scalar(x, -0.7), lambda: {"part": FloatFunctional()}),
    "torch.masked_fill": unary(lambda x: x.masked_fill(_mask, 0.5)),
    "torch.stack": binary(lambda x, y: torch.stack([x, y], 1)),
    "torch.where": binary(lambda x, y: torch.where(x > y, x, y)),
    "torch.where, number": unary(lambda x: torch.where(x > 0, x, -0.5)),
    "torch.nn.functional.normalize": unary(lambda x: F.normalize(x, dim=1), 0.2, 2.0),
    "torch.clamp, tensor": Case(lambda m, x, y: torch.clamp(x, min=y), shapes=(IMAGE, IMAGE)),
    "torch.nn.GRUCell": Case(lambda m, x, h: m.part(x, h), lambda: {"part": nn.GRUCell(8, 6)}, ((2, 8), (2, 6))),
    "torch.nn.GroupNorm": module(lambda: nn.GroupNorm(2, 4)),
    "torch.rsqrt": unary(torch.rsqrt, 0.3, 4),
    "(none) Correlation": Case(
        lambda m, x, y: m.part(x, y), lambda: {"part": hnn.Correlation(1, 1, pad_size=1)}, (IMAGE, IMAGE)
    ),
    "(none) GridSample with offset grid": Case(
        lambda m, x, g: m.part(x, g), lambda: {"part": hnn.GridSample()}, (IMAGE, (1, 6, 6, 2))
    ),
}

ELSEWHERE = {
    "torchvision.models.detection.rpn.AnchorGenerator": "test_detection.py",
    "torchvision.ops.MultiScaleRoIAlign": "test_detection.py",
    "torchvision.ops.RoIAlign": "test_detection.py",
    "(none) PointPillarsScatter": "test_detection.py",
    "(none) bgr2centered_yuv / rgb2centered_yuv": "test_detection.py",
    "(none) centered_yuv2bgr / centered_yuv2rgb": "test_detection.py",
    "(none) RcnnPostProcess": "test_detection.py",
    "(none) DetectionPostProcess": "test_detection.py",
    "(none) DetectionPostProcessV1": "test_detection.py",
    "torchvision.ops.DeformConv2d": "no form anywhere, in the vendor's table as well",
}
"""Rows that are no operator between a QuantStub and a DeQuantStub, and where they are tested."""
