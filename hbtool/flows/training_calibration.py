"""Calibration of the torch commands: observe ranges, correct biases, choose the observer on the calibration data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from hbtool.calibration.bias_correction import MOST_SAMPLES
from hbtool.config.training_loader import LoadedTraining
from hbtool.errors import ConfigError
from hbtool.flows.talk import Talk
from hbtool.flows.training_setup import Processes, build_loader, split_batch
from hbtool.flows.training_stages import OBSERVERS, prepare
from hbtool.quantization.bias_correction import correct_biases
from hbtool.quantization.distributed import all_sum
from hbtool.quantization.fake_quantize import FakeQuantState, set_fake_quantize
from hbtool.quantization.observed import ObservedGraphModule


def calibrate(loaded: LoadedTraining, model: nn.Module, mine: Processes, talk: Talk) -> tuple[ObservedGraphModule, str]:
    """(calibrated model in VALIDATION state, observer): every process sees its share, all get the same scales.

    `observer: default` calibrates with each of `OBSERVERS` and keeps the model whose outputs on the calibration data
    are nearest to the float model's; labels and validation data play no part.
    """
    given = loaded.config.quantization_parameters.observer
    if given != "default":
        return _calibrated(loaded, model, mine, talk, given), given
    best: tuple[float, ObservedGraphModule, str] | None = None
    for observer in OBSERVERS:
        made = _calibrated(loaded, model, mine, talk, observer)
        found = _similarity(loaded, model, made, mine)
        talk.info(f"observer {observer}: cosine of the outputs {found:.5f}")
        if best is None or found > best[0]:
            best = found, made, observer
    assert best is not None, "there are observers"
    return best[1], best[2]


def _calibrated(
    loaded: LoadedTraining, model: nn.Module, mine: Processes, talk: Talk, observer: str
) -> ObservedGraphModule:
    made = prepare(loaded, model, calibrating=True, device=mine.device, observer=observer)
    made.eval()
    set_fake_quantize(made, FakeQuantState.CALIBRATION)
    steps = _steps(loaded, mine)
    with torch.no_grad(), talk.progress(f"calibrating with {observer}", steps) as done:
        for index, inputs in enumerate(_batches(loaded, mine)):
            made(*inputs)
            done(index + 1)
    set_fake_quantize(made, FakeQuantState.VALIDATION)
    if loaded.config.quantization_parameters.bias_correction:
        correct_biases(made, _batches(loaded, mine))
    return made


def _loader(loaded: LoadedTraining, mine: Processes) -> Any:
    data = loaded.config.data_parameters
    key = "calibration" if data.calibration else "training"
    text = data.calibration or data.training
    if text is None:
        raise ConfigError(
            "data_parameters names no calibration data.", where=loaded.place("data_parameters"), hint="Add calibration."
        )
    return build_loader(loaded, key, text, mine, shuffle=key == "training")


def _steps(loaded: LoadedTraining, mine: Processes) -> int:
    return min(loaded.config.quantization_parameters.calibration_steps, len(_loader(loaded, mine)))


def _batches(loaded: LoadedTraining, mine: Processes) -> Iterator[tuple[Any, ...]]:
    """The inputs of the calibration steps, the same at every call."""
    torch.manual_seed(loaded.config.training_parameters.seed)
    for batch in islice(_loader(loaded, mine), loaded.config.quantization_parameters.calibration_steps):
        yield split_batch(batch, mine.device)[0]


@torch.no_grad()
def _similarity(loaded: LoadedTraining, model: nn.Module, calibrated: nn.Module, mine: Processes) -> float:
    """Mean cosine of each sample's outputs, over the samples that also correct biases."""
    total, samples = torch.zeros(2, dtype=torch.float64), 0
    for inputs in _batches(loaded, mine):
        pairs = zip(_tensors(model(*inputs)), _tensors(calibrated(*inputs)), strict=True)
        for a, b in pairs:
            cosine = torch.nn.functional.cosine_similarity(a.double().flatten(1), b.double().flatten(1))
            total += torch.tensor([float(cosine.sum()), float(len(cosine))], dtype=torch.float64)
        samples += len(next(x for x in inputs if isinstance(x, Tensor)))
        if samples >= MOST_SAMPLES:
            break
    summed = all_sum(total.to(mine.device)) if mine.device.type == "cuda" else all_sum(total)
    return float(summed[0] / summed[1]) if summed[1] > 0 else 0.0


def _tensors(outputs: Any) -> list[Tensor]:
    """Real-valued outputs with a batch axis."""
    leaves = _pytree.tree_leaves(outputs)
    return [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point() and t.dim() > 0]
