"""Keys that are read and checked but change nothing here: one line each, with the reason."""

from __future__ import annotations

from collections.abc import Iterator

from hbtool.config.compiler_section import PADDING_SWITCHES
from hbtool.config.quant_config import BiasCorrection
from hbtool.config.schema import LoadedConfig


def without_effect(loaded: LoadedConfig) -> Iterator[str]:
    """What the configuration asks for in vain, each line with file and line."""
    calibration = loaded.calibration_parameters
    if calibration.optimization.lstm_batch_last:
        reason = "hbtool chooses layouts by itself, and none changes a result (optimization)"
        yield _line(loaded, "calibration_parameters", "optimization", reason, "lstm_batch_last")
    if others := [name for name in loaded.compiler_parameters.extra_params if name not in PADDING_SWITCHES]:
        reason = f"a switch of the vendor's compiler; known here are {', '.join(PADDING_SWITCHES)}"
        yield _line(loaded, "compiler_parameters", "extra_params", reason, f"extra_params ({', '.join(others)})")
    quant = calibration.quant_config
    if quant is not None:
        activation = quant.whole_model.activation
        if activation.num_bin or activation.max_num_bin:
            reason = "histograms have bins of their own (num_bin, max_num_bin)"
            yield _line(loaded, "calibration_parameters", "quant_config", reason)
        biases = quant.whole_model.weight.bias_correction
        if biases is not None and biases != BiasCorrection():
            reason = "biases make up for their mean error, over as many samples as memory holds (num_sample, metric)"
            yield _line(loaded, "calibration_parameters", "quant_config", reason, "quant_config: bias_correction")


def _line(loaded: LoadedConfig, section: str, key: str, reason: str, name: str | None = None) -> str:
    return f"{loaded.place(section, key)}: {name or key}: has no effect: {reason}."
