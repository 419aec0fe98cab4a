"""Weights of a float model against those that the integers hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.errors import UsageError
from hbtool.nn.qat.weighted import Weighted
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.utils.quant_profiler.questions import _SIMILARITIES, _publish, _table


def compare_weights(
    float_model: nn.Module,
    qat_quantized_model: nn.Module,
    similarity_func: Any = "Cosine",
    with_tensorboard: bool = False,
    tensorboard_dir: str | Path | None = None,
    out_dir: str | Path | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Weight name -> {"float", "quantized"}; the table (similarity, largest difference) is logged.

    Args:
        float_model: float model; `fuse_fx` it first, so that batch norms are folded in both.
        qat_quantized_model: prepared or converted model.
        similarity_func: `Cosine`, `MSE`, `L1`, `SQNR` or a function of two flat tensors.
        with_tensorboard: accepted for compatibility.
        tensorboard_dir: accepted for compatibility.
        out_dir: folder of `weight_comparison.txt`, None for no file.
    """
    function = _SIMILARITIES.get(similarity_func, similarity_func)
    if not callable(function):
        raise UsageError(f"unknown similarity {similarity_func!r}.", hint=f"Use {', '.join(_SIMILARITIES)}.")
    quantized = qat_quantized_model
    if isinstance(quantized, QuantizedGraphModule):
        quantized = quantized.qat_model
    floats = dict(float_model.named_parameters())
    found: dict[str, dict[str, Tensor]] = {}
    rows = []
    for path, module in quantized.named_modules():
        if not isinstance(module, Weighted) or module.weight_fake_quant is None:
            continue
        name = f"{path}.weight"
        reference = floats.get(name)
        if reference is None or reference.shape != module.weight.shape:
            continue
        rounded = _rounded(module)
        found[name] = {"float": reference.detach().clone(), "quantized": rounded}
        a, b = found[name]["float"].flatten().double(), rounded.flatten().double()
        rows.append((name, f"{float(function(a, b)):.7f}", f"{float((a - b).abs().max()):.7g}"))
    _publish(_table(rows, ("Weight Name", "Similarity", "Atol")), True, out_dir, "weight_comparison.txt")
    return found


@torch.no_grad()
def _rounded(module: Weighted) -> Tensor:
    quantizer = module.weight_fake_quant
    assert quantizer is not None, "checked by the caller"
    flags = quantizer.flags()
    quantizer.enable_observer(False)
    quantizer.enable_fake_quant(True)
    try:
        result: Tensor = quantizer(module.weight.detach().clone())
        return result.clone()
    finally:
        quantizer.enable_observer(flags[0])
        quantizer.enable_fake_quant(flags[1])
