"""The prepared model: a graph of QAT modules that remembers the float model it was made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.quantization.tracing import QuantGraphModule


@dataclass
class Preparation:
    """What prepare decided, kept with the model.

    Attributes:
        source: the fused float model; it shares the parameters of the prepared one.
        types: path -> original class, for `module_type` entries.
        hybrid: whether float operators may stand between quantized ones.
        devices: node name -> (device, "module" | "function" | "method", reason).
        widths: node name -> why its result is int8 although int16 was asked for, or the other way round.
        example: (shape, dtype) of each tensor input of the last forward, () before any.
    """

    source: QuantGraphModule
    types: dict[str, type]
    hybrid: bool
    march: str
    devices: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    widths: dict[str, str] = field(default_factory=dict)
    example: tuple[tuple[tuple[int, ...], torch.dtype], ...] = ()


class ObservedGraphModule(QuantGraphModule):
    """A model with fake quantizers: what calibration and QAT run."""

    hb: Preparation

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Zeros of the shapes of the last forward; () before any."""
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        return tuple(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype in self.hb.example)


def record_inputs(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook: remember the shapes that a later export needs."""
    if torch.compiler.is_compiling() or not isinstance(module, ObservedGraphModule):
        return
    if args and all(isinstance(a, Tensor) for a in args):
        module.hb.example = tuple((tuple(a.shape), a.dtype) for a in args)


def fake_quantizers(model: nn.Module) -> dict[str, FakeQuantizeBase]:
    """Path -> fake quantizer."""
    return {path: m for path, m in model.named_modules() if isinstance(m, FakeQuantizeBase)}


@torch.no_grad()
def load_observer_params(calib_model: nn.Module, qat_model: nn.Module) -> None:
    """Copy ranges and scales to the fake quantizers of the same path, whatever their observers are."""
    sources = fake_quantizers(calib_model)
    for path, target in fake_quantizers(qat_model).items():
        source = sources.get(path)
        if source is None or not source.was_observed() or not target.activation_post_process.learns:
            continue
        seen = source.activation_post_process
        if seen.min_val.numel():
            target.adopt_range(seen.min_val, seen.max_val)
        if seen.min_val.numel() == 0 or seen.affine == target.activation_post_process.affine:
            target.set_qparams(source.scale.detach(), source.zero_point)
