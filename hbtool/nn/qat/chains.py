"""QAT forms of layers that are a chain of steps on the integer machine, each with a scale of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hbtool.nn.correlation import Correlation as _FloatCorrelation
from hbtool.nn.grid_sample import GridSample as _FloatGridSample
from hbtool.nn.qat.activation import on_grid_of
from hbtool.quantization.fake_quantize import FakeQuantize, FakeQuantizeBase
from hbtool.quantization.observer import MovingAverageMinMaxObserver


class Step(nn.Module):
    """One step of a chain with a scale of its own."""

    def __init__(self, factory: Any) -> None:
        super().__init__()
        self.activation_post_process = factory()

    def forward(self, x: Tensor) -> Tensor:
        """x fake-quantized."""
        return self.activation_post_process(x)


def _output(qconfig: Any) -> Any:
    """Fake quantizer of a chain's result; int8 where the qconfig asks for a high-precision output."""
    return qconfig.activation if qconfig.activation is not None else FakeQuantize.with_args(dtype="qint8")


def _between(qconfig: Any) -> Any:
    """Fake quantizer between two steps: int16; a fixed scale is meant for the result alone."""
    output = _output(qconfig)
    if "scale" in getattr(getattr(output, "p", output), "keywords", {}):
        return FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, dtype="qint16")
    return output.with_args(dtype="qint16")


class Chain(nn.Module):
    """Base of the chains.

    Attributes:
        inner: names of the steps in between (int16).
        last: name of the step that gives the result, None where it keeps the scale of the first input.
        source: fake quantizer of the first input.
    """

    inner: ClassVar[tuple[str, ...]] = ()
    last: ClassVar[str | None] = None
    qconfig: Any
    source: FakeQuantizeBase | None

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: Any, source: FakeQuantizeBase | None = None) -> Any:
        """The QAT form of `module`, whose first input was quantized by `source`."""
        made = cls()
        made.training = module.training
        made.qconfig = qconfig
        # Not a child: the scale belongs to the producer and must be in the state dict once.
        made.__dict__["source"] = source
        for name, value in vars(module).items():
            if not name.startswith("_") and name not in ("training", "qconfig"):
                setattr(made, name, value)
        for name in cls.inner:
            made.add_module(name, Step(_between(qconfig)))
        if cls.last is not None:
            made.add_module(cls.last, Step(_output(qconfig)))
        return made

    @property
    def result(self) -> FakeQuantizeBase | None:
        """The fake quantizer that gives the result its scale."""
        if self.last is None:
            return self.source
        step: FakeQuantizeBase = self.get_submodule(self.last).activation_post_process  # type: ignore[assignment]
        return step


class Softmax(Chain):
    """Softmax as the integer machine computes it: max, sub, exp, sum, reciprocal, mul; inner values are int16."""

    inner, last = ("sub", "exp", "sum", "reciprocal"), "mul"
    dim: int | None
    sub: Step
    exp: Step
    sum: Step
    reciprocal: Step
    mul: Step

    def forward(self, x: Tensor) -> Tensor:
        """Softmax along `dim` (torch's implicit choice if None), same shape."""
        dim = self.dim if self.dim is not None else (0 if x.dim() in (0, 1, 3) else 1)
        difference = self.sub(x - x.amax(dim, keepdim=True))
        exponential = self.exp(torch.exp(difference))
        total = self.sum(exponential.sum(dim, keepdim=True))
        inverse = self.reciprocal(torch.reciprocal(total))
        return self.mul(exponential * inverse)


class Correlation(Chain):
    """Correlation: for each displacement the products and their mean over channels, then all are joined."""

    last = "cat"
    mul: nn.ModuleList
    mean: nn.ModuleList
    cat: Step

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: Any, source: FakeQuantizeBase | None = None) -> Any:
        """As every chain, with a pair of steps for each displacement."""
        made = super().from_float(module, qconfig, source)
        count = (2 * (made.max_displacement // made.stride2) + 1) ** 2
        made.mul, made.mean = (nn.ModuleList(Step(_between(qconfig)) for _ in range(count)) for _ in range(2))
        return made

    def forward(self, data1: Tensor, data2: Tensor) -> Tensor:
        """As the float layer."""
        steps = iter(zip(self.mul, self.mean, strict=True))

        def mean_product(one: Tensor, two: Tensor) -> Tensor:
            mul, mean = next(steps)
            y: Tensor = mean(mul(one * two).mean(1, keepdim=True))
            return y

        maps = _FloatCorrelation.maps(self, data1, data2, mean_product)  # type: ignore[arg-type]
        return self.cat(torch.cat(maps, 1))


class GridSample(Chain):
    """Sampling at offsets: the grid is scaled and shifted to torch's coordinates in int16, then the image is sampled.

    The result keeps the scale of the image.
    """

    inner, last = ("scaled", "normalized"), None
    mode: str
    padding_mode: str
    scaled: Step
    normalized: Step

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        """As the float layer."""
        limits = torch.tensor([x.shape[3] - 1, x.shape[2] - 1], dtype=grid.dtype, device=grid.device)
        factor = 2.0 / limits.clamp(min=1)
        rows, columns = (torch.arange(n, dtype=grid.dtype, device=grid.device) for n in grid.shape[1:3])
        places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1) * factor - 1
        normalized = self.normalized(self.scaled(grid * factor) + places)
        return on_grid_of(self.source, F.grid_sample(x, normalized, self.mode, self.padding_mode, align_corners=True))


_CHAINS: dict[type, type[Chain]] = {
    nn.Softmax: Softmax,
    _FloatCorrelation: Correlation,
    _FloatGridSample: GridSample,
}


def chain_class(module: nn.Module) -> type[Chain] | None:
    """The chain that a float module becomes, None if it is a single step."""
    return next((_CHAINS[base] for base in type(module).__mro__ if base in _CHAINS), None)
