"""The PyTorch side: calibration, quantization-aware training, fixed-point conversion, hybrid models.

Names load on first use, so that importing one part does not import all of them (and parts may use each other).
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES: dict[str, str] = {
    "hbtool.dtype": "QuantDType qinfo qint4 qint8 qint16 qint32",
    "hbtool.march": "March get_march set_march",
    "hbtool.qat_mode": "QATMode get_qat_mode set_qat_mode",
    "hbtool.qtensor": "QTensor",
    "hbtool.quantization.stubs": "DeQuantStub QuantStub",
    "hbtool.quantization.qconfig": (
        "QConfig get_default_calib_qconfig get_default_qat_out_qconfig get_default_qat_qconfig get_default_qconfig "
        "get_qconfig per_channel_qat_8bit_qconfig"
    ),
    "hbtool.quantization.fake_quantize": (
        "CalibFakeQuantize FakeQuantState FakeQuantize default_4bit_fake_quant default_8bit_fake_quant "
        "default_16bit_fake_quant set_fake_quantize FakeCast default_calib_fake_quant default_uint4_fake_quant "
        "default_weight_4bit_fake_quant default_weight_8bit_fake_quant per_channel_8bit_fake_quant "
        "update_scale_by_qtype"
    ),
    "hbtool.quantization.learned": "LearnableFakeQuantize PACTFakeQuantize _LearnableFakeQuantize",
    "hbtool.quantization.observer": (
        "ClipObserver FixedScaleObserver MinMaxObserver MovingAverageMinMaxObserver "
        "MovingAveragePerChannelMinMaxObserver NoopObserver PerChannelMinMaxObserver"
    ),
    "hbtool.quantization.observed": "ObservedGraphModule load_observer_params",
    "hbtool.quantization.quantize_fx": "convert_fx fuse_fx prepare_calibration_fx prepare_qat_fx",
    "hbtool.quantization.quantize": "auto_calibrate convert prepare_calibration prepare_qat",
    "hbtool.quantization.eager_fusion": "fuse_conv_shared_modules fuse_known_modules fuse_modules",
    "hbtool.quantization.compile": "check_model compile_model export_hbir perf_model visualize_model",
    "hbtool.quantization.bias_correction": "correct_biases",
    "hbtool.quantization.compare_codes": "Agreement LayerAgreement agreement",
    "hbtool.quantization.exact": "set_exact_mode",
    "hbtool.quantization.newer": "PrepareMethod load_calib_state_dict prepare",
    "hbtool.quantization.qconfig_setter": (
        "ConvDtypeTemplate MatmulDtypeTemplate ModuleNameTemplate QconfigSetter SensitivityTemplate"
    ),
    "hbtool.quantization.reconstruction": "weight_reconstruction",
    "hbtool.quantization.observer_v2": "HistogramObserver KLObserver MSEObserver MixObserver PercentileObserver",
}

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

_SUBMODULES = (
    "fake_quantize", "hbdk4", "observer", "observer_v2", "qconfig", "qconfig_setter", "quantize_fx", "stubs",
)  # fmt: skip

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
