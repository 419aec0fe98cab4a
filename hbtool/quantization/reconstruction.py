"""Weights that give the float layer's results after rounding: one layer at a time, from a few calibration batches."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.errors import UsageError
from hbtool.nn.qat.weighted import Weighted
from hbtool.quantization.fake_quantize import FakeQuantState
from hbtool.quantization.observed import fake_quantizers

_log = logging.getLogger(__name__)


def weight_reconstruction(
    calib_model: nn.Module, batches: Iterable[Any], steps: int = 100, lr: float = 1e-4, max_batches: int = 8
) -> nn.Module:
    """Train the weights of each layer alone until its quantized result is nearest to its float result; in place.

    Inputs of a layer are the quantized model's, targets are the same layer in float on them; only weights and biases
    move, by straight-through gradients, and a layer keeps its old weights where the error did not fall.

    Args:
        calib_model: a calibrated model.
        batches: inputs, or tuples whose first member is the input.
        steps: steps per layer.
        lr: Adam's learning rate, relative to the largest weight of the layer.
        max_batches: batches that are kept in memory.

    Returns:
        The model, in eval mode and VALIDATION state.
    """
    layers = {path: m for path, m in calib_model.named_modules() if isinstance(m, Weighted) and m.weight_fake_quant}
    data = [b[0] if isinstance(b, (tuple, list)) else b for _, b in zip(range(max_batches), batches, strict=False)]
    if not layers or not data:
        raise UsageError(
            "weight_reconstruction needs a calibrated model and batches.",
            where=type(calib_model).__name__,
            hint="Pass the result of prepare_qat_fx after calibration and an iterable of inputs.",
        )
    calib_model.eval()
    for quantizer in fake_quantizers(calib_model).values():
        quantizer.set_state(FakeQuantState.VALIDATION)
    for path, layer in layers.items():
        calls = _inputs_of(layer, calib_model, data)
        before, after = _fit(layer, calls, steps, lr)
        _log.info("%s: squared error %.3g, before %.3g", path, after, before)
    return calib_model


@torch.no_grad()
def _inputs_of(layer: nn.Module, model: nn.Module, data: list[Tensor]) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(tuple(args)))
    try:
        for batch in data:
            model(batch)
    finally:
        handle.remove()
    return seen


def _fit(layer: Weighted, calls: list[tuple[Any, ...]], steps: int, lr: float) -> tuple[float, float]:
    """(error before, error after)."""
    parameters = [layer.weight, *([] if layer.bias is None else [layer.bias])]
    with torch.no_grad():
        targets = [_float_result(layer, args) for args in calls]
        kept = [p.detach().clone() for p in parameters]
        before = _error(layer, calls, targets)
    optimizer = torch.optim.Adam(parameters, lr=lr * float(layer.weight.detach().abs().max()))
    quantizer = layer.weight_fake_quant
    assert quantizer is not None
    with torch.enable_grad():
        for step in range(steps):
            args, target = calls[step % len(calls)], targets[step % len(targets)]
            loss = (layer(*args) - target).square().mean()
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        after = _error(layer, calls, targets)
        if not after < before:
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
            after = before
    return before, after


def _float_result(layer: Weighted, args: tuple[Any, ...]) -> Tensor:
    own = [q for q in (layer.weight_fake_quant, layer.activation_post_process) if q is not None]
    for quantizer in own:
        quantizer.set_state(FakeQuantState._FLOAT)
    try:
        result: Tensor = layer(*args)
    finally:
        for quantizer in own:
            quantizer.set_state(FakeQuantState.VALIDATION)
    return result.detach()


def _error(layer: Weighted, calls: list[tuple[Any, ...]], targets: list[Tensor]) -> float:
    errors = [(layer(*args) - target).square().mean() for args, target in zip(calls, targets, strict=True)]
    return float(torch.stack(errors).mean())
