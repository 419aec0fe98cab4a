"""Weights of a float model against those that the integers hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.nn.qat.weighted import Weighted
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.utils.quant_profiler.features import write_histograms
from hbtool.utils.quant_profiler.similarity import similarity_function
from hbtool.utils.quant_profiler.tables import publish, table


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
        similarity_func: `Cosine`, `MSE`, `L1`, `KL`, `SQNR` or a function of two flat tensors.
        with_tensorboard: also write histograms of both for tensorboard, where it is installed.
        tensorboard_dir: their folder, `tensorboard` if None.
        out_dir: folder of `weight_comparison.txt`, None for no file.
    """
    function = similarity_function(similarity_func)
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
    publish(table(rows, ("Weight Name", "Similarity", "Atol")), True, out_dir, "weight_comparison.txt")
    if with_tensorboard:
        write_histograms(((f"{n}:{k}", t) for n, pair in found.items() for k, t in pair.items()), tensorboard_dir)
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
