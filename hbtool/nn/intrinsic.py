"""Fused float modules: a weighted layer with what is computed in the same integer step (BN, add, ReLU)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

Clip = tuple[float, float]

CLIPS: dict[str, Clip | None] = {"": None, "ReLU": (0.0, math.inf), "ReLU6": (0.0, 6.0)}
"""Limits of the activation in a fused module's name."""

BASES: dict[str, type[nn.Module]] = {
    "Conv{}1d": nn.Conv1d,
    "Conv{}2d": nn.Conv2d,
    "Conv{}3d": nn.Conv3d,
    "ConvTranspose{}2d": nn.ConvTranspose2d,
    "Linear{}": nn.Linear,
}
"""Weighted layers that fuse, by the pattern of their fused names."""


class Fused(nn.Module):
    """relu(bn(conv(x)) + other), with the parts that the class name says.

    Children: `conv` (any weighted layer), `bn` and `relu` if present.

    Attributes:
        conv_path: path the weighted layer had in the model; the fused module takes its qconfig and device.
    """

    has_add = False
    clip: Clip | None = None
    base: type[nn.Module] = nn.Conv2d
    conv_path: str | None = None

    def __init__(self, conv: nn.Module, bn: nn.Module | None = None, relu: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv
        if bn is not None:
            self.bn = bn
        if relu is not None:
            self.relu = relu
        self.training = conv.training

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """The fused result."""
        y = self.conv(x)
        if hasattr(self, "bn"):
            y = self.bn(y)
        if other is not None:
            y = y + other
        return self.relu(y) if hasattr(self, "relu") else y

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """What an eager model calls where its FloatFunctional was: conv(x) + other."""
        return self(x, other)

    def add_relu(self, x: Tensor, other: Tensor) -> Tensor:
        """relu(conv(x) + other)."""
        return torch.relu(self(x, other))


def _name(pattern: str, bn: bool, add: bool, activation: str) -> str:
    return pattern.format(f"{'BN' if bn else ''}{'Add' if add else ''}{activation}")


def _classes() -> dict[str, type[Fused]]:
    made: dict[str, type[Fused]] = {}
    for pattern, base in BASES.items():
        for bn in (False, True):
            for add in (False, True):
                for activation, clip in CLIPS.items():
                    if not (bn or add or activation):
                        continue
                    name = _name(pattern, bn, add, activation)
                    doc = f"{base.__name__}{' + BN' * bn}{' + add' * add}{f' + {activation}' if activation else ''}."
                    body: dict[str, Any] = {"has_add": add, "clip": clip, "base": base}
                    made[name] = type(name, (Fused,), {**body, "__doc__": doc, "__module__": __name__})
    return made


CLASSES = _classes()
globals().update(CLASSES)


def fused_name(conv: nn.Module, bn: bool, add: bool, activation: str) -> str:
    """Name of the fused class around `conv`; `activation` is "", "ReLU" or "ReLU6"."""
    for pattern, base in BASES.items():
        if type(conv) is base:
            return _name(pattern, bn, add, activation)
    raise TypeError(f"{type(conv).__name__} does not fuse")
