"""Where a model meets integers: `QuantStub` at each float input, `DeQuantStub` at each float output."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.ao.quantization import DeQuantStub
from torch.ao.quantization import QuantStub as TorchQuantStub

from hbtool.errors import UsageError

__all__ = ["DeQuantStub", "QuantStub", "TorchQuantStub", "is_dequant_stub", "is_quant_stub"]


class QuantStub(nn.Module):
    """Marks a float tensor that becomes quantized here.

    Args:
        scale: fixed scale (1 / 128 for camera input); None observes like any activation.
        zero_point: must be None or 0.
        qconfig: qconfig of this stub alone.
    """

    def __init__(self, scale: float | None = None, zero_point: int | None = None, qconfig: Any = None) -> None:
        super().__init__()
        if scale is not None and not scale > 0:
            raise UsageError(f"QuantStub scale is {scale}.", hint="Give a scale above 0, such as 1 / 128.")
        if zero_point:
            raise UsageError(f"QuantStub zero_point is {zero_point}.", hint="The BPU needs zero_point=0.")
        self.scale = scale
        self.zero_point = zero_point
        if qconfig is not None:
            self.qconfig = qconfig

    def forward(self, x: Tensor) -> Tensor:
        """x unchanged (float model)."""
        return x

    def extra_repr(self) -> str:
        """The fixed scale, if any."""
        return f"scale={self.scale}" if self.scale is not None else ""


def is_quant_stub(module: nn.Module | None) -> bool:
    """Whether it is a quant stub, hbtool's or torch's."""
    return isinstance(module, (QuantStub, TorchQuantStub))


def is_dequant_stub(module: nn.Module | None) -> bool:
    """Whether it is torch's dequant stub."""
    return isinstance(module, DeQuantStub)
