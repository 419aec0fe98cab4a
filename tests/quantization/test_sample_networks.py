"""Fixed point in torch = ONNX in onnxruntime = artifact on host and simulator: sample networks and seed models."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from qat_samples import HYBRID_DICT, Hybrid, Plain

from hbtool.config import load_config
from hbtool.flows.makertbin import makertbin
from hbtool.ir.onnx_session import make_session
from hbtool.quantization import FakeQuantState, compile_model, convert_fx, prepare_qat_fx, set_fake_quantize
from hbtool.quantization.layer_names import layer_names
from hbtool.quantization.qconfig import default_qat_out_8bit_fake_quant_qconfig, get_default_qconfig
from hbtool.runtime.session import Session
from hbtool.utils.onnx_helper import export_quantized_onnx, export_to_onnx

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
SAMPLES = Path(__file__).resolve().parents[2] / "samples"


@pytest.fixture(scope="module")
def networks():
    sys.path[:0] = [str(SAMPLES / "torch"), str(SAMPLES / "digits"), str(SAMPLES / "cifar_resnet20")]
    import networks
    from model import ResNet20
    from qat_model import QatDigits

    yield {
        "digits": (QatDigits, "head", (1, 1, 32, 32)),
        "mobilenetv2": (networks.MobileNetV2, "classifier", (1, 3, 32, 32)),
        "resnet18": (networks.ResNet18, "fc", (1, 3, 32, 32)),
        "resnet20": (ResNet20, "linear", (1, 3, 32, 32)),
        "seed": (Plain, "conv1", (1, 3, 16, 16)),
    }
    del sys.path[:3]


CASES = [(name, torch.per_tensor_symmetric) for name in ("digits", "mobilenetv2", "resnet18", "resnet20", "seed")]
CASES += [(name, torch.per_tensor_affine) for name in ("digits", "mobilenetv2", "seed")]


@pytest.mark.parametrize(("name", "scheme"), CASES)
def test_zero_differing_elements(networks, name, scheme, tmp_path):
    build, head, shape = networks[name]
    random = torch.Generator().manual_seed(5)
    torch.manual_seed(5)
    float_model = build().eval()
    qconfigs = {
        "": get_default_qconfig(activation_qkwargs={"qscheme": scheme}),
        "module_name": {head: default_qat_out_8bit_fake_quant_qconfig},
    }
    model = prepare_qat_fx(float_model, qconfigs).eval()
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    x = torch.randn(shape, generator=random)
    with torch.no_grad():
        model(x)
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    fixed = convert_fx(model)
    want = fixed(x)
    if name == "mobilenetv2":
        names = set(layer_names(fixed.integer_graph(x)).values())
        assert {"_features_0_0_hz_conv2d", "_features_3_generated_add_0_hz_conv2d"} <= names
    assert want.abs().max() > 0
    with torch.no_grad():
        if name != "digits":
            assert torch.equal(model(x), want)
    export_quantized_onnx(fixed, x, tmp_path / "net.onnx")
    session = make_session((tmp_path / "net.onnx").read_bytes())
    assert np.array_equal(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0], want.numpy())
    traced = torch.jit.trace(fixed, x)
    assert compile_model(traced, [x], hbm=str(tmp_path / "net.hbm"), opt=2, march="bayes") == 0
    for backend in ("host", "sim"):
        artifact = Session(str(tmp_path / "net.hbm"), backend=backend)
        assert np.array_equal(artifact.run(None, {artifact.get_inputs()[0].name: x.numpy()})[0], want.numpy())


HYBRID_CONFIG = """
model_parameters:
  onnx_model: hybrid.onnx
  march: bayes
  output_model_file_prefix: hybrid
  working_dir: out
input_parameters:
  input_type_train: featuremap
  input_layout_train: NCHW
  input_type_rt: featuremap
  input_layout_rt: NCHW
  norm_type: no_preprocess
calibration_parameters:
  calibration_type: load
compiler_parameters:
  compile_mode: latency
  optimize_level: O2
"""


def test_hybrid_seed_model_has_zero_differing_elements(tmp_path):
    """Torch with integers on the BPU parts, and what the mapper makes of the Q/DQ file."""
    torch.manual_seed(5)
    x = torch.randn(1, 3, 16, 16)
    model = prepare_qat_fx(Hybrid().eval(), {"": get_default_qconfig()}, hybrid=True, hybrid_dict=HYBRID_DICT).eval()
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    with torch.no_grad():
        model(x)
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    want = convert_fx(model)(x).detach().numpy()
    export_to_onnx(model, x, tmp_path / "hybrid.onnx")
    (tmp_path / "config.yaml").write_text(HYBRID_CONFIG)
    built = makertbin(load_config(tmp_path / "config.yaml"))
    for backend in ("host", "sim"):
        artifact = Session(built.artifact_path, backend=backend)
        assert np.array_equal(artifact.run(None, {artifact.get_inputs()[0].name: x.numpy()})[0], want)
