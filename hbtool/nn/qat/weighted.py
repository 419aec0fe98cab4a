"""Convolutions and linear layers with fake-quantized weights, alone and fused: `Conv2d`, `ConvAddReLU2d`, ..."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hbtool.nn.intrinsic import BASES, CLASSES, Clip, Fused
from hbtool.qat_mode import QATMode, get_qat_mode
from hbtool.quantization.deployed import Deployment, can_deploy, deployed_forward, sum_operand_scale
from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.quantization.observer import MovingAverageMinMaxObserver
from hbtool.quantization.straight_through import fake_quantize_op, quantize_dequantize, substitute

_log = logging.getLogger(__name__)


class Weighted(nn.Module):
    """A weighted layer in QAT: y = fq(clip(bn(layer(x, fq(weight))) + other)).

    Attributes:
        weight_fake_quant: fake quantizer of the weights, None = float weights.
        activation_post_process: fake quantizer of the output, None = high-precision output.
        has_add, clip: what is fused.
        bn: batch normalization that takes part in training (`with_bn` modes), None where it was absorbed.
        reverse_fold: the weight scale is computed on BN-scaled weights.
        deployment: the scales around the layer (fx mode), None where they are not known.
    """

    has_add = False
    clip: Clip | None = None
    float_base: type[nn.Module]
    float_fused: type[Fused] | None = None
    weight: Tensor
    bias: Tensor | None
    weight_fake_quant: FakeQuantizeBase | None
    activation_post_process: FakeQuantizeBase | None
    reverse_fold = False
    preserve_qat_mode = False
    conv_path: str | None = None
    qconfig: Any = None
    deployment: Deployment | None = None

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: Any) -> Weighted:
        """The QAT form of a (fused) float module; its parameters are shared, not copied."""
        conv = module.conv if isinstance(module, Fused) else module
        made: Weighted = cls.__new__(cls)
        made.__dict__.update({k: v.copy() if isinstance(v, dict) else v for k, v in conv.__dict__.items()})
        made.qconfig = qconfig
        made.conv_path = getattr(module, "conv_path", None)
        made.preserve_qat_mode = getattr(module, "preserve_qat_mode", getattr(conv, "preserve_qat_mode", False))
        if isinstance(module, Fused) and hasattr(module, "bn"):
            made.bn = module.bn
            made.reverse_fold = get_qat_mode() == QATMode.WithBNReverseFold
        channels, axis = made._channels()
        made.weight_fake_quant = None
        if qconfig.weight is not None:
            made.weight_fake_quant = _weight_quantizer(qconfig.weight, channels, axis)
        made.activation_post_process = qconfig.activation() if qconfig.activation is not None else None
        made.training = module.training
        return made

    def _channels(self) -> tuple[int, int | None]:
        """(number of output channels, their axis in the weight); None where no axis separates them."""
        shape = self.weight.shape
        if isinstance(self, nn.ConvTranspose2d):
            if self.groups == 1:
                return shape[1], 1
            return (shape[0], 0) if shape[1] == 1 else (1, None)
        return shape[0], 0

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """The fused layer; `other` is the second operand of the fused add.

        In VALIDATION state, where the input's scale is known, the result is the fixed-point model's, bit for bit.
        """
        if can_deploy(self, x, other):
            exact = deployed_forward(self, x, other, self.clip)
            return substitute(self._fake(x, other), exact) if torch.is_grad_enabled() else exact
        return self._fake(x, other)

    def _fake(self, x: Tensor, other: Tensor | None) -> Tensor:
        """The layer in float, fake-quantized."""
        y = self._layer(x)
        post = self.activation_post_process
        if other is not None:
            y = self._sum_operand(y, post)
            y = y + other if torch.compiler.is_compiling() else y.add_(other)
        if post is not None:
            return post(y, self.clip)
        if self.clip is None:
            return y
        return F.relu6(y) if self.clip[1] == 6.0 else F.relu(y)

    def _sum_operand(self, y: Tensor, post: FakeQuantizeBase | None) -> Tensor:
        """The layer's own operand of the fused add, as integers hold it: int16, finer than the output's step.

        During training the difference (1/128 of a step) drowns in the gradient noise and is not worth a pass.
        """
        if post is None or self.training or not post.flags()[1]:
            return y
        scale = sum_operand_scale(post)
        if torch.compiler.is_compiling():
            return fake_quantize_op(y, scale, 16, -(1 << 15), (1 << 15) - 1, -1)
        return quantize_dequantize(y, scale, -(1 << 15), (1 << 15) - 1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        bias = state_dict.get(prefix + "bias")
        if isinstance(bias, Tensor) and self.bias is None:
            # Bias correction gave the saved layer one.
            self.bias = nn.Parameter(torch.zeros_like(bias, device=self.weight.device))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """What an eager model calls where its FloatFunctional was."""
        return self(x, other)

    def _layer(self, x: Tensor) -> Tensor:
        bn: Any = self._modules.get("bn")
        if bn is None:
            return self._compute(x, self._quantized(self.weight), self.bias)
        if not self.reverse_fold:
            return bn(self._compute(x, self._quantized(self.weight), self.bias))
        axis = self._channels()[1] or 0
        factor = (bn.weight / (bn.running_var + bn.eps).sqrt()).detach()
        shape = [-1 if i == axis else 1 for i in range(self.weight.dim())]
        factor = factor.view(shape)
        weight = self._quantized(self.weight * factor) / factor
        return bn(self._compute(x, weight, self.bias))

    @torch.no_grad()
    def absorb_bn(self) -> None:
        """Fold the batch normalization into weights and bias; the eval-mode output does not change.

        The integers of the weights stay: without reverse fold their scales take the factor in.
        """
        bn: Any = self._modules.pop("bn", None)
        if bn is None:
            return
        channels, axis = self._channels()
        factor = bn.weight / (bn.running_var + bn.eps).sqrt()
        shape = [-1 if i == (axis or 0) else 1 for i in range(self.weight.dim())]
        quantizer = self.weight_fake_quant
        if quantizer is not None and not self.reverse_fold:
            quantizer.set_qparams((quantizer.scale * factor.abs()).expand(channels))
        bias = torch.zeros_like(factor) if self.bias is None else self.bias
        self.weight = nn.Parameter(self.weight * factor.view(shape))
        self.bias = nn.Parameter((bias - bn.running_mean) * factor + bn.bias)

    def _quantized(self, weight: Tensor) -> Tensor:
        return weight if self.weight_fake_quant is None else self.weight_fake_quant(weight)

    def _compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self, nn.Linear):
            return F.linear(x, weight, bias)
        if isinstance(self, nn.ConvTranspose2d):
            where = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
            return F.conv_transpose2d(x, weight, bias, *where)
        return self._conv_forward(x, weight, bias)  # type: ignore[operator]


def _weight_quantizer(factory: Any, channels: int, axis: int | None) -> FakeQuantizeBase:
    made: FakeQuantizeBase = factory()
    asked = made.dtype
    if asked.bits > 8:
        _log.warning("weights are int8 on every BPU: qint8 is used instead of %s", asked)
        factory = factory.with_args(dtype="qint8")
        made = factory()
    if made.is_per_channel and axis is None:
        made = factory(qscheme=torch.per_tensor_symmetric, ch_axis=-1, observer=MovingAverageMinMaxObserver)
    elif made.is_per_channel:
        made = factory(channel_len=channels, ch_axis=axis)
    made.asked_dtype = asked
    return made


def _classes() -> dict[str, type[Weighted]]:
    made: dict[str, type[Weighted]] = {}
    for base in BASES.values():
        body = {"float_base": base, "__module__": __name__, "__doc__": f"{base.__name__} in QAT."}
        made[base.__name__] = type(base.__name__, (Weighted, base), body)
    for name, fused in CLASSES.items():
        body = {"float_base": fused.base, "float_fused": fused, "has_add": fused.has_add, "clip": fused.clip}
        body.update({"__module__": __name__, "__doc__": f"{name} in QAT."})
        made[name] = type(name, (Weighted, fused.base), body)
    return made


QAT_CLASSES = _classes()
globals().update(QAT_CLASSES)


def qat_class(module: nn.Module) -> type[Weighted] | None:
    """The QAT class of a weighted float module, None if it is not one."""
    if isinstance(module, Fused):
        return QAT_CLASSES[type(module).__name__]
    for name, cls in QAT_CLASSES.items():
        if type(module) is cls.float_base and name == cls.float_base.__name__:
            return cls
    return None
