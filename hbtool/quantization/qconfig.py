"""Qconfigs: how the activations and weights of a module are fake-quantized; three generations of spellings."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import torch

from hbtool.dtype import DTypeLike, as_dtype
from hbtool.errors import UsageError
from hbtool.quantization import observer_v2
from hbtool.quantization.fake_quantize import CalibFakeQuantize, FakeQuantize, FakeQuantState
from hbtool.quantization.learned import LearnableFakeQuantize, PACTFakeQuantize
from hbtool.quantization.observer import FixedScaleObserver, MovingAverageMinMaxObserver
from hbtool.quantization.observer import MovingAveragePerChannelMinMaxObserver as PerChannel

QConfig = namedtuple("QConfig", ["activation", "weight"])
"""(activation, weight): each builds a fake quantizer when called, or is None = not quantized."""

_FAKE_QUANTS: dict[str, Any] = {"fake_quant": FakeQuantize, "lsq": LearnableFakeQuantize, "pact": PACTFakeQuantize}

_OBSERVERS: dict[str, Any] = {
    "min_max": MovingAverageMinMaxObserver,
    "fixed_scale": FixedScaleObserver,
    "clip": observer_v2.ClipObserver,
    "percentile": observer_v2.PercentileObserver,
    "clip_std": observer_v2.ClipStdObserver,
    "mse": observer_v2.MSEObserver,
    "kl": observer_v2.KLObserver,
    "mix": observer_v2.MixObserver,
}


def _choose(table: dict[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise UsageError(f"unknown {what} {name!r}.", hint=f"Use one of {', '.join(table)} or None.")
    return table[name]


def _side(fake_quant: str | None, observer: str | None, kwargs: dict[str, Any] | None, defaults: dict[str, Any]) -> Any:
    """The factory of one side of a qconfig; None if that side is not quantized."""
    if fake_quant is None:
        return None
    merged = {**defaults, **(kwargs or {})}
    merged["dtype"] = as_dtype(merged.get("dtype", "qint8"))
    if merged.get("observer") is None:
        if observer is None:
            return None
        merged["observer"] = _choose(_OBSERVERS, observer, "observer")
    is_channel = merged.get("qscheme") == torch.per_channel_symmetric
    if is_channel and merged["observer"] is MovingAverageMinMaxObserver:
        merged["observer"] = PerChannel
    return _choose(_FAKE_QUANTS, fake_quant, "fake quantizer").with_args(**merged)


def get_default_qconfig(
    activation_fake_quant: str | None = "fake_quant",
    weight_fake_quant: str | None = "fake_quant",
    activation_observer: str | None = "min_max",
    weight_observer: str | None = "min_max",
    activation_qkwargs: dict[str, Any] | None = None,
    weight_qkwargs: dict[str, Any] | None = None,
) -> QConfig:
    """A qconfig from names; weights are per output channel unless `weight_qkwargs` gives another qscheme.

    Args:
        activation_fake_quant: `fake_quant`, `lsq`, `pact`, or None = the output stays at full precision.
        weight_fake_quant: the same for weights.
        activation_observer: `min_max`, `fixed_scale`, `clip`, `percentile`, `clip_std`, `mse`, `kl`, `mix` or None.
        weight_observer: the same without `kl`.
        activation_qkwargs: arguments of the observer and the fake quantizer (`dtype`, `averaging_constant`, ...);
            the key `observer` is an observer class and overrides the name.
        weight_qkwargs: the same for weights.

    Raises:
        UsageError: an unknown name.
    """
    if weight_observer == "kl":
        raise UsageError("the observer 'kl' is for activations.", hint="Use min_max or mse for weights.")
    weights = {"qscheme": torch.per_channel_symmetric, "ch_axis": 0}
    return QConfig(
        activation=_side(activation_fake_quant, activation_observer, activation_qkwargs, {}),
        weight=_side(weight_fake_quant, weight_observer, weight_qkwargs, weights),
    )


def _with_bits(dtype: Any, bits: int | None) -> Any:
    """The first generation passes the number of bits instead of a dtype."""
    if bits is None and isinstance(dtype, int):
        bits = dtype
    return dtype if bits is None else f"qint{bits}"


def get_default_calib_qconfig(
    dtype: DTypeLike | int = "qint8",
    calib_qkwargs: dict[str, Any] | None = None,
    backend: str = "",
    *,
    bits: int | None = None,
) -> QConfig:
    """Calibration before `prepare_qat_fx` with a QAT qconfig: fake quantizers that start by observing only.

    Args:
        dtype: activation dtype (or number of bits).
        calib_qkwargs: observer arguments; the key `observer` is an observer class (default: mse).
        backend: accepted for compatibility.
        bits: the first generation's spelling of `dtype`.
    """
    activation = {"observer": observer_v2.MSEObserver, "averaging_constant": 0.1, **(calib_qkwargs or {})}
    activation["dtype"] = as_dtype(activation.get("dtype", _with_bits(dtype, bits)))
    weight = {"observer": PerChannel, "averaging_constant": 1.0, "dtype": as_dtype("qint8"), "ch_axis": 0}
    return QConfig(CalibFakeQuantize.with_args(**activation), CalibFakeQuantize.with_args(**weight))


def get_default_qat_qconfig(
    dtype: DTypeLike | int = "qint8",
    weight_dtype: DTypeLike = "qint8",
    activation_fake_quant: str | None = "fake_quant",
    weight_fake_quant: str | None = "fake_quant",
    activation_qkwargs: dict[str, Any] | None = None,
    weight_qkwargs: dict[str, Any] | None = None,
    backend: str = "",
    *,
    bits: int | None = None,
) -> QConfig:
    """QAT with moving-average ranges; `dtype` is the activation dtype (or number of bits)."""
    return get_default_qconfig(
        activation_fake_quant,
        weight_fake_quant,
        activation_qkwargs={"dtype": _with_bits(dtype, bits), **(activation_qkwargs or {})},
        weight_qkwargs={"dtype": weight_dtype, **(weight_qkwargs or {})},
    )


def get_default_qat_out_qconfig(
    dtype: DTypeLike | int = "qint8",
    weight_fake_quant: str | None = "fake_quant",
    weight_qkwargs: dict[str, Any] | None = None,
    backend: str = "",
    *,
    bits: int | None = None,
) -> QConfig:
    """QAT for a layer that is a model output: its accumulator is the output (int32, then float)."""
    return get_default_qconfig(None, weight_fake_quant, None, weight_qkwargs=weight_qkwargs)


def get_qconfig(
    observer: Any = MovingAverageMinMaxObserver,
    in_dtype: DTypeLike | None = None,
    weight_dtype: DTypeLike = "qint8",
    out_dtype: DTypeLike | None = "qint8",
    fix_scale: bool = False,
) -> QConfig:
    """The newer spelling: output dtype None = high-precision output; `fix_scale` freezes a calibrated scale."""
    weight = {"dtype": weight_dtype}
    if out_dtype is None:
        return get_default_qconfig(None, activation_observer=None, weight_qkwargs=weight)
    activation = {"observer": observer, "dtype": out_dtype, "averaging_constant": 0.0 if fix_scale else 0.01}
    return get_default_qconfig(activation_qkwargs=activation, weight_qkwargs=weight)


def is_calibration(qconfig: Any) -> bool:
    """Whether this qconfig starts by observing only."""
    if qconfig is None:
        return False
    sides = [s for s in (qconfig.activation, qconfig.weight) if s is not None]
    return any(_start_of(side) is FakeQuantState.CALIBRATION for side in sides)


def _start_of(side: Any) -> FakeQuantState:
    partial = getattr(side, "p", side)
    function = getattr(partial, "func", partial)
    keywords = getattr(partial, "keywords", {})
    default = FakeQuantState.CALIBRATION if function is CalibFakeQuantize else FakeQuantState.QAT
    start: FakeQuantState = keywords.get("start", default)
    return start


_int16 = {"dtype": as_dtype("qint16")}
_lsq = {"use_grad_scaling": True, "averaging_constant": 1.0}

default_qat_8bit_fake_quant_qconfig = get_default_qconfig()
default_qat_8bit_weight_32bit_out_fake_quant_qconfig = get_default_qconfig(None, activation_observer=None)
default_qat_out_8bit_fake_quant_qconfig = default_qat_8bit_weight_32bit_out_fake_quant_qconfig
# The published guide recommends mse for calibration; an older page lists percentile.
default_calib_8bit_fake_quant_qconfig = get_default_qconfig(activation_observer="mse")
default_calib_8bit_weight_32bit_out_fake_quant_qconfig = default_qat_out_8bit_fake_quant_qconfig
default_calib_out_8bit_fake_quant_qconfig = default_qat_out_8bit_fake_quant_qconfig
default_qat_8bit_weight_16bit_act_fake_quant_qconfig = get_default_qconfig(activation_qkwargs=_int16)
default_calib_8bit_weight_16bit_act_fake_quant_qconfig = get_default_qconfig(
    activation_observer="mse", activation_qkwargs=_int16
)
default_qat_8bit_lsq_quant_qconfig = get_default_qconfig("lsq", "lsq", activation_qkwargs=_lsq, weight_qkwargs=_lsq)
default_qat_8bit_pact_quant_qconfig = get_default_qconfig("pact")
default_qat_8bit_fixed_act_fake_quant_qconfig = get_default_qconfig(
    activation_qkwargs={"averaging_constant": 0.0}, weight_qkwargs={"averaging_constant": 1.0}
)
per_channel_qat_8bit_qconfig = default_qat_8bit_fake_quant_qconfig
