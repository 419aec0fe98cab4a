"""Fixed point: torch module, its trace, and the exported integer ONNX in onnxruntime give the same bits."""

import io

import numpy as np
import onnx
import pytest
import torch
from qat_samples import HYBRID_DICT, Hybrid, Plain

from hbtool.compiler.segments import split_segments
from hbtool.errors import UsageError
from hbtool.ir import meta
from hbtool.ir.onnx_session import make_session
from hbtool.quantization import (
    FakeQuantState,
    convert_fx,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hbtool.quantization.observed import fake_quantizers
from hbtool.utils.onnx_helper import export_quantized_onnx, export_to_onnx

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

QCONFIGS = {"": get_default_qat_qconfig(), "module_name": [("conv1", get_default_qat_out_qconfig())]}


def _trained(model, shape, **kwargs):
    prepared = prepare_qat_fx(model, QCONFIGS, **kwargs)
    prepared.train()
    for _ in range(2):
        prepared(torch.rand(shape))
    prepared.eval()
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    return prepared


@pytest.fixture(params=["plain", "hybrid"])
def trained(request):
    if request.param == "plain":
        return _trained(Plain(), (2, 3, 16, 16))
    return _trained(Hybrid(), (2, 3, 16, 16), hybrid=True, hybrid_dict=HYBRID_DICT)


def _run(data: bytes, x: torch.Tensor) -> np.ndarray:
    session = make_session(data)
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def test_torch_trace_and_onnxruntime_agree_bit_for_bit(trained, tmp_path):
    fixed = convert_fx(trained)
    x = torch.rand(2, 3, 16, 16)
    want = fixed(x)
    traced = torch.jit.trace(fixed, x)
    assert torch.equal(traced(x), want)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    assert torch.equal(loaded(x), want)
    for source in (fixed, loaded):
        file = tmp_path / "quantized.onnx"
        export_quantized_onnx(source, x, file, input_names=["image"], enable_onnx_checker=True)
        assert np.array_equal(_run(file.read_bytes(), x), want.numpy())


def test_convert_leaves_its_input_usable_and_close(trained):
    x = torch.rand(2, 3, 16, 16)
    before = trained(x)
    fixed = convert_fx(trained)
    assert torch.equal(trained(x), before)
    scale = max(q.scale.max().item() for n, q in trained.named_modules() if hasattr(q, "fake_quant_enabled"))
    assert (fixed(x) - before).abs().max().item() < 2 * scale


def test_hybrid_has_three_bpu_segments_and_keeps_float_where_asked():
    fixed = convert_fx(_trained(Hybrid(), (1, 3, 8, 8), hybrid=True, hybrid_dict=HYBRID_DICT))
    segments = split_segments(fixed.integer_graph(torch.rand(1, 3, 8, 8)))
    bpu = [[meta.torch_module(n) for n in s.nodes] for s in segments if s.device == "BPU"]
    assert bpu == [["layer0.conv"], ["layer2.conv"], ["conv1"]]
    cpu = {meta.torch_module(n) for s in segments if s.device == "CPU" for n in s.nodes}
    assert {"layer1.conv", "conv0"} <= cpu


def test_exported_qat_file_is_standard_and_carries_module_paths(trained, tmp_path):
    x = torch.rand(2, 3, 16, 16)
    file = tmp_path / "qat.onnx"
    export_to_onnx(trained, x, file, enable_onnx_checker=True, operator_export_type=None)
    model = onnx.load(file)
    assert {n.domain for n in model.graph.node} == {""}
    paths = {p.value for n in model.graph.node for p in n.metadata_props if p.key == "hbtool.torch_module"}
    assert "conv1" in paths
    weights = {i.name: i for i in model.graph.initializer}
    assert any(i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4 for i in weights.values())
    assert str(tmp_path).encode() not in file.read_bytes()
    assert b".py" not in file.read_bytes()
    got, want = _run(file.read_bytes(), x), trained(x).detach().numpy()
    # The two compute float convolutions in another order; where that crosses a rounding tie, one step differs.
    steps = [q.scale.max().item() for q in fake_quantizers(trained).values()]
    assert np.abs(got - want).max() < 2 * max(steps)
    assert (np.abs(got - want) > 1e-3).mean() < 0.01
    assert not list(tmp_path.glob(".*"))


def test_new_input_shape_gets_its_own_program():
    fixed = convert_fx(_trained(Plain(), (1, 3, 8, 8)))
    one = torch.rand(3, 3, 12, 8)
    whole = fixed(one)
    parts = torch.cat([fixed(part) for part in one.split(1)])
    assert torch.equal(whole, parts)


def test_unprepared_model_and_foreign_trace_are_refused():
    with pytest.raises(UsageError, match="not prepared"):
        convert_fx(Plain())
    fixed = convert_fx(_trained(Plain(), (1, 3, 8, 8)))
    x = torch.rand(1, 3, 8, 8)

    class More(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fixed = fixed

        def forward(self, x):
            return self.fixed(x) * 2

    with pytest.raises(UsageError, match="Trace the result of convert_fx itself"):
        export_quantized_onnx(torch.jit.trace(More(), x), x, io.BytesIO())


def test_unobserved_scale_is_named(caplog):
    convert_fx(prepare_qat_fx(Plain(), QCONFIGS))
    assert "layer0.0 has not collected any statistics of activations and its scale is 1" in caplog.text
