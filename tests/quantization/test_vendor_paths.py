"""Scripts for the vendor's plugin run on hbtool: the shim, and every documented name."""

import importlib
import importlib.util
import subprocess
import sys

import onnx
import pytest

from hbtool import compat
from hbtool.config import parse_config
from hbtool.flows.makertbin import makertbin
from hbtool.flows.perf import perf

EXPORTED = [
    "qinfo",
    "qint8",
    "qint16",
    "qint32",
    "March",
    "QTensor",
    "_LearnableFakeQuantize",
    "auto_calibrate",
    "FakeCast",
    "FakeQuantize",
    "FakeQuantState",
    "default_4bit_fake_quant",
    "default_8bit_fake_quant",
    "default_16bit_fake_quant",
    "default_calib_fake_quant",
    "default_uint4_fake_quant",
    "default_weight_4bit_fake_quant",
    "default_weight_8bit_fake_quant",
    "per_channel_8bit_fake_quant",
    "set_fake_quantize",
    "update_scale_by_qtype",
    "fuse_conv_shared_modules",
    "fuse_known_modules",
    "fuse_modules",
    "check_model",
    "compile_model",
    "export_hbir",
    "perf_model",
    "visualize_model",
    "QATMode",
    "get_qat_mode",
    "set_qat_mode",
    "ClipObserver",
    "FixedScaleObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "PerChannelMinMaxObserver",
    "load_observer_params",
    "PACTFakeQuantize",
    "PrepareMethod",
    "prepare",
    "QConfig",
    "get_default_calib_qconfig",
    "get_default_qat_out_qconfig",
    "get_default_qat_qconfig",
    "get_default_qconfig",
    "get_qconfig",
    "per_channel_qat_8bit_qconfig",
    "convert",
    "prepare_qat",
    "convert_fx",
    "fuse_fx",
    "prepare_qat_fx",
    "QuantStub",
    "DeQuantStub",
    "prepare_calibration",
    "prepare_calibration_fx",
    "weight_reconstruction",
    "QconfigSetter",
    "ModuleNameTemplate",
    "ConvDtypeTemplate",
    "MatmulDtypeTemplate",
    "SensitivityTemplate",
    "HistogramObserver",
    "load_calib_state_dict",
]


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_name(name):
    found = getattr(importlib.import_module("hbtool.quantization"), name)
    assert not isinstance(found, type(sys))


PATHS = {
    "march": "March set_march get_march",
    "dtype": "qint8 qint16 qint32 qinfo QuantDType",
    "qtensor": "QTensor",
    "qat_mode": "QATMode set_qat_mode get_qat_mode",
    "quantization.qconfig": "default_qat_8bit_fake_quant_qconfig default_calib_8bit_fake_quant_qconfig "
    "default_calib_8bit_weight_32bit_out_fake_quant_qconfig default_qat_8bit_weight_16bit_act_fake_quant_qconfig",
    "quantization.quantize_fx": "prepare_qat_fx prepare_calibration_fx convert_fx fuse_fx",
    "quantization.observer": "MovingAverageMinMaxObserver FixedScaleObserver MovingAveragePerTensorMinMaxObserver",
    "quantization.observer_v2": "PercentileObserver MSEObserver KLObserver MixObserver ClipStdObserver MinMaxObserver",
    "quantization.fake_quantize": "FakeQuantize set_fake_quantize FakeQuantState",
    "nn": "Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Div Erf Exp Floor HardLog Pow Reciprocal Selu Sin Sinh Sqrt "
    "Tan Interpolate GridSample SegmentLUT LookUpTable Correlation PointPillarsScatter AnchorGenerator "
    "MultiScaleRoIAlign "
    "BgrToYuv444 DetectionPostProcess DetectionPostProcessV1 RcnnPostProcess BaseGridGenerator FilterModule Softmax "
    "RMSNorm GroupNorm Matmul MultiheadAttention MultiScaleDeformableAttention BevPoolV2 LSTMCell GRUCell RoIAlign",
    "nn.functional": "filter point_pillars_preprocess rle warp roi_align",
    "quantization.hbdk4": "export pre_export convert compile save",
    "nn.quantized": "FloatFunctional",
    "functional": "bgr2rgb rgb2centered_yuv bgr2centered_yuv centered_yuv2rgb",
    "jit": "save load to_device",
    "utils.onnx_helper": "export_to_onnx export_quantized_onnx",
    "utils.fx_helper": "wrap",
    "utils.quant_profiler": "check_deploy_device get_module_called_count check_unfused_operations check_qconfig",
}


@pytest.fixture
def shim():
    assert compat.install()
    yield
    compat.uninstall()


@pytest.mark.parametrize(("path", "names"), PATHS.items())
def test_documented_path_is_the_same_object_through_the_shim(shim, path, names):
    aliased = importlib.import_module(f"horizon_plugin_pytorch.{path}")
    real = importlib.import_module(f"hbtool.{path}")
    for name in names.split():
        assert getattr(aliased, name) is getattr(real, name)


def test_attributes_of_the_top_level_package(shim):
    horizon = importlib.import_module("horizon_plugin_pytorch")
    assert horizon.march.March is importlib.import_module("hbtool.march").March
    assert horizon.qconfig.get_default_qconfig is horizon.quantization.get_default_qconfig
    assert callable(horizon.rgb2centered_yuv)
    assert horizon.nn.qat is importlib.import_module("hbtool.nn.qat")
    with pytest.raises(AttributeError):
        _ = horizon.no_such_thing
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("horizon_plugin_pytorch.no_such_thing")


def test_real_installation_wins(tmp_path, monkeypatch):
    (tmp_path / "horizon_plugin_pytorch.py").write_text("REAL = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert compat.install() is False
    assert importlib.util.find_spec("horizon_plugin_pytorch").origin.endswith("horizon_plugin_pytorch.py")


def _run(checkout, tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "hbtool.compat", *map(str, arguments)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_seed_scripts_run_as_printed(checkout, tmp_path):
    plain = _run(checkout, tmp_path, checkout / "samples/seed/non_hybrid.py", tmp_path)
    assert plain.returncode == 0, plain.stderr
    assert "HBDK model check PASS" in plain.stderr
    assert "HBDK model compilation SUCCESS" in plain.stderr
    assert (tmp_path / "model.hbm").stat().st_size > 0
    hybrid = _run(checkout, tmp_path, checkout / "samples/seed/hybrid.py", tmp_path)
    assert hybrid.returncode == 0, hybrid.stderr
    model = onnx.load(tmp_path / "qat.onnx")
    paths = {p.value for n in model.graph.node for p in n.metadata_props if p.key == "hbtool.torch_module"}
    assert {"layer1.conv", "conv0", "conv1"} <= paths
    # What training left in float stays there; the rest is three BPU segments, as in the figure of the document.
    text = (checkout / "samples/seed/hybrid.yaml").read_text().replace("model_output/qat.onnx", "qat.onnx")
    result = makertbin(parse_config(text, file="hybrid.yaml", folder=tmp_path))
    report = perf(result.artifact_path, tmp_path / "perf", measure=False).report
    assert len(report.segments) == 3


def test_missing_script_is_a_usage_error(checkout, tmp_path):
    result = _run(checkout, tmp_path, "absent.py")
    assert result.returncode == 2
    assert "no such script" in result.stderr
