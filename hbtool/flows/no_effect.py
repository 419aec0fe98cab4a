"""Keys that are read and checked but change nothing here: one line each, with the reason."""

from __future__ import annotations

from collections.abc import Iterator

from hbtool.config.schema import LoadedConfig

_ONE_TENSOR = "a batch is one tensor in hbtool's artifact, and the application may write its images one after another"


def without_effect(loaded: LoadedConfig) -> Iterator[str]:
    """What the configuration asks for in vain, each line with file and line."""
    inputs, calibration = loaded.input_parameters, loaded.calibration_parameters
    if inputs.separate_batch:
        yield _line(loaded, "input_parameters", "separate_batch", _ONE_TENSOR)
    if inputs.separate_name:
        yield _line(loaded, "input_parameters", "separate_name", _ONE_TENSOR)
    if calibration.optimization.lstm_batch_last:
        reason = "LSTM runs on the CPU, whose layout is the model's (optimization)"
        yield _line(loaded, "calibration_parameters", "optimization", reason, "lstm_batch_last")
    if loaded.compiler_parameters.extra_params:
        names = ", ".join(loaded.compiler_parameters.extra_params)
        reason = "these are switches of the vendor's compiler"
        yield _line(loaded, "compiler_parameters", "extra_params", reason, f"extra_params ({names})")
    if loaded.compiler_parameters.max_l2m_size:
        reason = "the machine model has one on-chip memory, whose size the march states"
        yield _line(loaded, "compiler_parameters", "max_l2m_size", reason)
    quant = calibration.quant_config
    if quant is not None:
        activation = quant.whole_model.activation
        if activation.num_bin or activation.max_num_bin:
            reason = "histograms have bins of their own (num_bin, max_num_bin)"
            yield _line(loaded, "calibration_parameters", "quant_config", reason)


def _line(loaded: LoadedConfig, section: str, key: str, reason: str, name: str | None = None) -> str:
    return f"{loaded.place(section, key)}: {name or key}: has no effect: {reason}."
