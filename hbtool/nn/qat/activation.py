"""QAT forms of modules without weights: the float module, then a fake quantizer on its output."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.nn.functional_module import METHODS
from hbtool.nn.functional_module import FloatFunctional as _FloatFunctional
from hbtool.quantization.deployed import deployed_average
from hbtool.quantization.fake_quantize import FakeQuantize, FakeQuantizeBase
from hbtool.quantization.observer import FixedScaleObserver, MovingAverageMinMaxObserver
from hbtool.quantization.straight_through import quantize_dequantize, substitute
from hbtool.quantization.stubs import QuantStub as _FloatQuantStub


def adopt(made: nn.Module, module: nn.Module) -> None:
    """Give a new module the attributes and parameters of `module` (shared, not copied)."""
    made.__dict__.update({k: v.copy() if isinstance(v, dict) else v for k, v in module.__dict__.items()})


class OwnScale(nn.Module):
    """Mixin: the float module's output passes `activation_post_process`."""

    activation_post_process: FakeQuantizeBase | None
    qconfig: Any

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: Any) -> OwnScale:
        """The QAT form of `module`."""
        made: OwnScale = cls.__new__(cls)
        adopt(made, module)
        made.qconfig = qconfig
        made.activation_post_process = qconfig.activation() if qconfig.activation is not None else None
        return made

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The float result, fake-quantized; an average in VALIDATION state is the fixed-point model's."""
        y: Tensor = super().forward(*args, **kwargs)
        if self.activation_post_process is None:
            return y
        rounded: Tensor = self.activation_post_process(y)
        exact = deployed_average(self, args[0], y.detach()) if self.__dict__.get("deployment") and args else None
        if exact is None:
            return rounded
        return substitute(rounded, exact) if rounded.requires_grad else exact


def on_grid_of(source: FakeQuantizeBase | None, y: Tensor) -> Tensor:
    """y rounded to the grid of a fake quantizer that it does not pass (straight-through gradient)."""
    if source is None or not source.flags()[1]:
        return y
    if torch.compiler.is_compiling():
        return source._round_opaque(y)
    with torch.no_grad():
        rounded = quantize_dequantize(y, source.scale, *source.limits())
    return y + (rounded - y).detach() if y.requires_grad else rounded


class InputScale(nn.Module):
    """Mixin: the float module's output is rounded to the scale of its input's fake quantizer."""

    scale_source: FakeQuantizeBase | None
    qconfig: Any = None

    @classmethod
    def from_float(cls, module: nn.Module, source: FakeQuantizeBase | None) -> InputScale:
        """The QAT form of `module`, whose input was quantized by `source`."""
        made: InputScale = cls.__new__(cls)
        adopt(made, module)
        # Not a child: the scale belongs to the producer and must be in the state dict once.
        made.__dict__["scale_source"] = source
        return made

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The float result on the input's grid; rounding is straight-through."""
        return on_grid_of(self.scale_source, super().forward(*args, **kwargs))


_MADE: dict[tuple[type, type], type] = {}


def derived_class(mixin: type, float_class: type) -> Any:
    """The QAT class of `float_class`: same name, `mixin` in front; made once."""
    key = (mixin, float_class)
    if key not in _MADE:
        name = float_class.__name__
        body = {"__module__": __name__, "__doc__": f"{name} in QAT."}
        _MADE[key] = type(name, (mixin, float_class), body)
        # Pickle and deepcopy find a class by its module and name.
        setattr(sys.modules[__name__], name, _MADE[key])
    return _MADE[key]


class FloatFunctional(_FloatFunctional):
    """FloatFunctional whose result passes a fake quantizer."""

    qconfig: Any

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: Any) -> FloatFunctional:
        """The QAT form of `module`."""
        made: FloatFunctional = cls.__new__(cls)
        adopt(made, module)
        made.qconfig = qconfig
        made.activation_post_process = qconfig.activation() if qconfig.activation is not None else None
        return made

    def forward(self, *args: Any, method: str = "add", **kwargs: Any) -> Tensor:
        """Result of `method`, fake-quantized; a ReLU in the method is part of the rounding."""
        if method == "add_relu" and isinstance(self.activation_post_process, FakeQuantizeBase):
            post = self.activation_post_process
            return post(METHODS["add"](*args, **kwargs), (0.0, float("inf")))
        return super().forward(*args, method=method, **kwargs)


class QuantStub(nn.Module):
    """Entry of the quantized part: fake-quantizes its input, with a fixed scale if the float stub has one."""

    activation_post_process: FakeQuantizeBase

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: Any) -> QuantStub:
        """The QAT form of a quant stub (hbtool's or torch's)."""
        made = cls()
        made.training = module.training
        made.qconfig = qconfig
        scale = getattr(module, "scale", None)
        factory = qconfig.activation if qconfig.activation is not None else FakeQuantize.with_args(dtype="qint8")
        keywords = dict(getattr(getattr(factory, "p", factory), "keywords", {}))
        if isinstance(module, _FloatQuantStub) and scale is not None:
            fixed = {k: v for k, v in keywords.items() if k in ("dtype", "start", "saturate")}
            made.activation_post_process = FakeQuantize(observer=FixedScaleObserver, scale=scale, **fixed)
        elif getattr(module, "constant", False):
            kept = {k: v for k, v in keywords.items() if k in ("dtype", "start")}
            made.activation_post_process = FakeQuantize(
                observer=MovingAverageMinMaxObserver, averaging_constant=1.0, **kept
            )
        else:
            made.activation_post_process = factory()
        return made

    def forward(self, x: Tensor) -> Tensor:
        """x fake-quantized."""
        return self.activation_post_process(x)


class DeQuantStub(nn.Module):
    """Exit of the quantized part: the values are float already."""

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: Any = None) -> DeQuantStub:
        """The QAT form of a dequant stub."""
        made = cls()
        made.training = module.training
        return made

    def forward(self, x: Tensor) -> Tensor:
        """x."""
        return x
