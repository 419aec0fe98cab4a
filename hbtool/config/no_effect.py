"""What is read and checked but changes nothing here, with the reason: single values of keys that otherwise count.

Keys that never count say so themselves (`Key.ignored_on`).
"""

from __future__ import annotations

from collections.abc import Iterator

from hbtool.config.compiler_section import PADDING_SWITCHES
from hbtool.config.quant_config import BiasCorrection, QuantConfig
from hbtool.config.schema import LoadedConfig

REASONS = {
    "optimization: lstm_batch_last": "hbtool chooses layouts by itself, and none changes a result",
    "extra_params: OTHERS": f"a switch of the vendor's compiler; known here are {', '.join(PADDING_SWITCHES)}",
    "quant_config: num_bin, max_num_bin": "histograms have bins of their own",
    "quant_config: bias_correction num_sample, metric": "biases make up for their mean error, over as many samples as "
    "memory holds",
}
"""`key: value` -> why it has no effect."""


def without_effect(loaded: LoadedConfig) -> Iterator[str]:
    """What the configuration asks for in vain, each line with file and line."""
    calibration = loaded.calibration_parameters
    if calibration.optimization.lstm_batch_last:
        yield _line(loaded, "calibration_parameters", "optimization: lstm_batch_last")
    if others := [name for name in loaded.compiler_parameters.extra_params if name not in PADDING_SWITCHES]:
        yield _line(loaded, "compiler_parameters", "extra_params: OTHERS", ", ".join(others))
    if calibration.quant_config is not None:
        for what in _of_quant_config(calibration.quant_config):
            yield _line(loaded, "calibration_parameters", what)


def _of_quant_config(quant: QuantConfig) -> Iterator[str]:
    activation, biases = quant.whole_model.activation, quant.whole_model.weight.bias_correction
    if activation.num_bin or activation.max_num_bin:
        yield "quant_config: num_bin, max_num_bin"
    if biases is not None and biases != BiasCorrection():
        yield "quant_config: bias_correction num_sample, metric"


def _line(loaded: LoadedConfig, section: str, what: str, named: str | None = None) -> str:
    key, _, part = what.partition(": ")
    return f"{loaded.place(section, key)}: {key}: {named or part}: has no effect: {REASONS[what]}."
