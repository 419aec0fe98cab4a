"""Prepare in fx mode: fusion, names, hybrid placement, errors; the caller's model never changes."""

# ruff: noqa: E501 - printed forms and tables of cases read better on one line

import copy

import pytest
import torch
import torch.nn.functional as F
from qat_samples import HYBRID_DICT, Hybrid, Plain
from torch import nn

from hbtool.errors import TrainingError, UnsupportedError, UsageError
from hbtool.quantization import (
    CalibFakeQuantize,
    DeQuantStub,
    FakeQuantize,
    FakeQuantState,
    QuantStub,
    fuse_fx,
    get_default_calib_qconfig,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    get_default_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hbtool.quantization.observed import fake_quantizers

OUT = {"module_name": [("conv1", get_default_qat_out_qconfig())]}


class Wrapped(nn.Module):
    """A function between stubs."""

    def __init__(self, function, stubs: bool = True) -> None:
        super().__init__()
        self.function = function
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.dequant(self.function(self, self.quant(x)))


def test_prepare_leaves_the_model_alone_and_fuses():
    model = Plain().eval()
    before = copy.deepcopy(model.state_dict())
    text = repr(model)
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig(), **OUT})
    prepared.train()
    prepared(torch.rand(2, 3, 8, 8)).sum().backward()
    assert repr(model) == text
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in prepared.parameters()}
    assert type(prepared.get_submodule("layer0.0")).__name__ == "ConvReLU2d"
    assert type(prepared.layer2.add).__name__ == "ConvAddReLU2d"
    assert "layer2.add.weight" in prepared.state_dict()
    assert isinstance(prepared.layer2.conv, nn.Identity)


def test_plus_becomes_a_generated_fused_add():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.quant, self.dequant = QuantStub(), DeQuantStub()
            self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()

        def forward(self, x):
            x = self.quant(x)
            return self.dequant(self.relu(self.bn(self.conv(x)) + x))

    fused = fuse_fx(Residual().eval())
    assert repr(fused._generated_add_0).startswith("ConvAddReLU2d(\n  (conv): Conv2d(3, 3")
    assert "(relu): ReLU()" in repr(fused._generated_add_0)
    assert all(isinstance(m, nn.Identity) for m in (fused.conv, fused.bn, fused.relu))
    prepared = prepare_qat_fx(fused, {"": get_default_qat_qconfig()})
    assert type(prepared._generated_add_0).__name__ == "ConvAddReLU2d"
    device, kind, _ = prepared.hb.devices["add"]
    assert (device, kind) == ("BPU", "method")


def test_generated_name_stands_beside_its_parent():
    class Block(nn.Module):
        def forward(self, x):
            return x + torch.sigmoid(x)

    model = Wrapped(lambda m, x: m.features(m.conv(x)))
    model.features = nn.Sequential(nn.Identity(), Block())
    prepared = prepare_qat_fx(
        model,
        {
            "": get_default_qat_qconfig(),
            "module_name": {"features.1_generated_add_0": get_default_qat_qconfig("qint16")},
        },
    )
    assert prepared.get_submodule("features.1_generated_add_0").activation_post_process.dtype == "qint16"
    assert prepared.get_submodule("features.1_generated_sigmoid_0").activation_post_process.dtype == "qint8"


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: -x,
        lambda m, x: 1 - x,
        lambda m, x: x + 2,
        lambda m, x: 3 * x - 1,
        lambda m, x: 2 / (x + 5),
        lambda m, x: x / 4,
        lambda m, x: x[0],
        lambda m, x: x[:, -1, ..., 1:],
        lambda m, x: x[..., 0],
        lambda m, x: F.softmax(x, 1) + torch.cat([x, x], 1).mean((2, 3), keepdim=True)[:, :4],
        lambda m, x: F.interpolate(m.conv(x), scale_factor=2),
        lambda m, x: F.conv2d(x, m.conv.weight, m.conv.bias),
        lambda m, x: x.reshape(x.shape[0], -1),
        lambda m, x: torch.matmul(x, x.transpose(-1, -2)),
    ],
)
def test_rewritten_expressions_keep_their_value(function):
    model = Wrapped(function).eval()
    x = torch.randn(2, 4, 6, 6)
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}).eval()
    set_fake_quantize(prepared, FakeQuantState._FLOAT)
    torch.testing.assert_close(prepared(x), model(x), rtol=1e-5, atol=1e-6)


def test_constant_tensor_gets_a_frozen_stub():
    model = Wrapped(lambda m, x: m.conv(x) * m.gain)
    model.gain = nn.Parameter(torch.tensor([0.5, 1.0, 2.0, 4.0]).reshape(4, 1, 1))
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()})
    prepared(torch.rand(1, 4, 3, 3))
    assert prepared._generated_const_0.activation_post_process.scale.item() == pytest.approx(4 / 127.5)


def test_hybrid_inserts_the_documented_modules():
    prepared = prepare_qat_fx(
        Hybrid().eval(), {"": get_default_qat_qconfig(), **OUT}, hybrid=True, hybrid_dict=HYBRID_DICT
    )
    inserted = [n for n, _ in prepared.named_children() if n.endswith(("_input_dequant", "_activation_post_process"))]
    assert inserted == [
        "selu_activation_post_process",
        "selu_1_input_dequant",
        "layer1_conv_activation_post_process",
        "conv0_activation_post_process",
        "conv0_input_dequant",
        "selu_2_input_dequant",
    ]
    assert "selu_2_input_dequant_0" in {n.name for n in prepared.graph.nodes}
    devices = {name: device for name, (device, _, _) in prepared.hb.devices.items()}
    assert devices == {
        "selu": "CPU", "selu_activation_post_process": "CPU", "layer0_conv": "BPU", "selu_1_input_dequant_0": "CPU",
        "selu_1": "CPU", "layer1_conv": "CPU", "layer1_conv_activation_post_process": "CPU", "layer2_conv": "BPU",
        "conv0_input_dequant_0": "CPU", "conv0": "CPU", "conv0_activation_post_process": "CPU", "conv1": "BPU",
        "selu_2_input_dequant_0": "CPU", "selu_2": "CPU", "dequant": "CPU",
    }  # fmt: skip
    assert type(prepared.conv0) is nn.Conv2d
    assert prepared.conv1.activation_post_process is None


def test_calibration_then_qat_keeps_scales_and_loads_strictly():
    model, x = Plain().eval(), torch.rand(2, 3, 8, 8)
    calib = prepare_qat_fx(model, {"": get_default_calib_qconfig()}).eval()
    assert all(isinstance(q, CalibFakeQuantize) and q.flags() == (True, False) for q in fake_quantizers(calib).values())
    torch.testing.assert_close(calib(x), model(x), rtol=1e-5, atol=1e-6)
    for _ in range(3):
        calib(torch.rand(2, 3, 8, 8))
    qat = prepare_qat_fx(calib, {"": get_default_qat_qconfig(), **OUT})
    scales = {p: q.scale.clone() for p, q in fake_quantizers(calib).items()}
    for path, quantizer in fake_quantizers(qat).items():
        assert type(quantizer) is FakeQuantize
        assert quantizer.flags() == (True, True)
        assert torch.equal(quantizer.scale, scales[path])
    again = prepare_qat_fx(model, {"": get_default_qat_qconfig()})
    again.load_state_dict(calib.state_dict(), strict=True)
    lsq = prepare_qat_fx(model, {"": get_default_qconfig("lsq", "lsq")})
    lsq.load_state_dict(calib.state_dict(), strict=True)
    assert torch.equal(lsq.quant.activation_post_process.scale, scales["quant.activation_post_process"])


def test_printed_form_of_high_precision_output():
    prepared = prepare_qat_fx(Plain(), {"": get_default_qat_qconfig(), **OUT})
    text = " ".join(repr(prepared.conv1).split())
    assert text.startswith(
        "Conv2d( 3, 3, kernel_size=(1, 1), stride=(1, 1) (weight_fake_quant): FakeQuantize( fake_quant_enabled=tensor([1], dtype=torch.uint8), observer_enabled=tensor([1], dtype=torch.uint8), quant_min=-128, quant_max=127, dtype=qint8, qscheme=torch.per_channel_symmetric, ch_axis=0, scale=tensor([1., 1., 1.]), zero_point=tensor([0, 0, 0]) (activation_post_process): MovingAveragePerChannelMinMaxObserver(min_val=tensor([]), max_val=tensor([])) )"
    )
    assert "(activation_post_process): FakeQuantize" not in text
    text = " ".join(repr(prepared.layer0[0]).split())
    assert text.endswith(
        "(activation_post_process): FakeQuantize( fake_quant_enabled=tensor([1], dtype=torch.uint8), observer_enabled=tensor([1], dtype=torch.uint8), quant_min=-128, quant_max=127, dtype=qint8, qscheme=torch.per_tensor_symmetric, ch_axis=-1, scale=tensor([1.]), zero_point=tensor([0]) (activation_post_process): MovingAverageMinMaxObserver(min_val=tensor([]), max_val=tensor([])) ) )"
    )


def test_subclass_of_conv_keeps_its_name_and_parameters():
    class Conv1dAs2d(nn.Conv2d):
        def forward(self, x):
            return super().forward(x.unsqueeze(-2)).squeeze(-2)

    model = Wrapped(lambda m, x: m.special(x))
    model.special = Conv1dAs2d(4, 5, 1)
    prepared = prepare_qat_fx(
        model, {"": get_default_qat_qconfig(), "module_name": {"special": get_default_qat_out_qconfig()}}
    )
    assert type(prepared.special).__name__ == "Conv2d"
    assert prepared.special.activation_post_process is None
    assert prepared(torch.rand(2, 4, 9)).shape == (2, 5, 9)


class NoResult(Wrapped):
    def __init__(self):
        super().__init__(None)

    def forward(self, x):
        self.quant(x)


def _flow(m, x):
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("build", "qconfig", "error", "words"),
    [
        (lambda: Plain(), {"": get_default_qat_qconfig(), "module_name": {"layer0.cnov": None}}, UsageError, ["layer0.cnov", "nearest"]),
        (lambda: Plain(), {"": get_default_qat_qconfig(), "module_name": [(3, None)]}, UsageError, ["3 is not a string"]),
        (lambda: Plain(), {"": get_default_qat_qconfig(), "module_nmae": {}}, UsageError, ["module_nmae"]),
        (lambda: Plain(), {"": "int8"}, UsageError, ["not a qconfig"]),
        (lambda: Plain(), {"": get_default_qat_qconfig(), "module_name": {"conv1": get_default_calib_qconfig()}}, UsageError, ["mixed"]),
        (lambda: Plain(), {"": get_default_qat_qconfig(), "module_name": {"layer0": get_default_qat_out_qconfig()}}, TrainingError, ["int32 high-precision", "layer0"]),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1)), {"": get_default_qat_qconfig()}, TrainingError, ["no QuantStub"]),
        (lambda: Wrapped(_flow), {"": get_default_qat_qconfig()}, TrainingError, ["control flow", "test_prepare.py", "wrap"]),
        (lambda: NoResult(), {"": get_default_qat_qconfig()}, TrainingError, ["no tensor"]),
        (lambda: Wrapped(lambda m, x: torch.linalg.svdvals(x)), {"": get_default_qat_qconfig()}, UnsupportedError, ["not implemented for QTensor", "hybrid"]),
        (lambda: Wrapped(lambda m, x: m.conv(m.dequant(m.conv(x)))), {"": get_default_qat_qconfig()}, TrainingError, ["input is float"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(build, qconfig, error, words):
    with pytest.raises(error) as caught:
        prepare_qat_fx(build(), qconfig)
    for word in words:
        assert word in str(caught.value)


def test_unknown_hybrid_name_and_missing_march(monkeypatch):
    with pytest.raises(UsageError, match=r"conv9.*nearest"):
        prepare_qat_fx(Hybrid(), {"": get_default_qat_qconfig()}, hybrid=True, hybrid_dict={"module_name": ["conv9"]})
    monkeypatch.setattr("hbtool.march._current", None)
    with pytest.raises(UsageError, match="no march is set"):
        prepare_qat_fx(Plain(), {"": get_default_qat_qconfig()})


def test_non_leaf_tensor_is_copied_and_named(caplog):
    model = Plain()
    model.extra = torch.ones(2, requires_grad=True) * 2
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()})
    assert "extra" in caplog.text
    assert torch.equal(prepared.extra, torch.full((2,), 2.0))


def test_hooks_can_be_registered_on_prepared_modules():
    prepared = prepare_qat_fx(Plain(), {"": get_default_qat_qconfig()})
    seen = []
    for path, module in prepared.named_modules():
        module.register_forward_hook(lambda m, i, o, path=path: seen.append(path))
    prepared(torch.rand(1, 3, 4, 4))
    assert {"quant", "layer0.0", "layer2.add", "conv1"} <= set(seen)
