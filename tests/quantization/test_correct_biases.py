"""Bias correction of a calibrated torch model: channel means come back, the float model stays, QAT takes it over."""

import pytest
import torch
from qat_samples import Plain
from torch import nn

from hbtool.errors import DataError, UsageError
from hbtool.nn.qat.weighted import Weighted
from hbtool.quantization import (
    DeQuantStub,
    FakeQuantState,
    QuantStub,
    convert_fx,
    correct_biases,
    get_default_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)

QCONFIG = get_default_qconfig(weight_qkwargs={"dtype": "qint4"})


class Chain(nn.Module):
    """A convolution without bias, a fused sum and a linear layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU6())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5, bias=False)

    def forward(self, x):
        x = self.first(self.quant(x))
        x = torch.relu(self.second(x) + x)
        return self.dequant(self.head(x.mean((2, 3))))


def calibrated(model, x, qconfig=QCONFIG):
    made = prepare_qat_fx(model, {"": qconfig}).eval()
    set_fake_quantize(made, FakeQuantState.CALIBRATION)
    with torch.no_grad():
        made(x)
    set_fake_quantize(made, FakeQuantState.VALIDATION)
    return made


@pytest.fixture
def data():
    torch.manual_seed(4)
    return Chain().eval(), [torch.rand(8, 3, 12, 12) for _ in range(3)]


@torch.no_grad()
def shift(model, prepared, batches):
    """Largest difference of an output's mean."""
    return float(sum(prepared(x) - model(x) for x in batches).mean(0).abs().max())


def test_means_of_the_outputs_come_back_and_the_float_model_stays(data):
    model, batches = data
    prepared = calibrated(model, torch.cat(batches))
    want, before = [model(x).detach() for x in batches], shift(model, prepared, batches)
    assert correct_biases(prepared, batches) == ("first.0", "_generated_add_0", "head")
    assert shift(model, prepared, batches) < 0.2 * before
    assert all(torch.equal(model(x), y) for x, y in zip(batches, want, strict=True))
    fixed = convert_fx(prepared)
    assert (fixed(batches[0]) - prepared(batches[0])).abs().max() < 0.05


def test_a_second_correction_changes_next_to_nothing(data):
    model, batches = data
    prepared = calibrated(model, torch.cat(batches))
    correct_biases(prepared, batches)
    once = {n: p.detach().clone() for n, p in prepared.named_parameters() if n.endswith("bias")}
    correct_biases(prepared, batches)
    for name, parameter in prepared.named_parameters():
        if name.endswith("bias"):
            assert torch.allclose(parameter, once[name], atol=2e-3)


def test_qat_takes_the_corrected_biases_over(data):
    model, batches = data
    prepared = calibrated(model, torch.cat(batches))
    correct_biases(prepared, batches)
    qat = prepare_qat_fx(prepared, {"": QCONFIG})
    fresh = prepare_qat_fx(model, {"": QCONFIG})
    fresh.load_state_dict(prepared.state_dict())
    for path, layer in prepared.named_modules():
        if isinstance(layer, Weighted):
            assert torch.equal(qat.get_submodule(path).bias, layer.bias)
            assert torch.equal(fresh.get_submodule(path).bias, layer.bias)
            assert qat.get_submodule(path).bias.requires_grad


def test_it_needs_a_calibrated_model_and_data(data):
    model, batches = data
    with pytest.raises(UsageError, match="prepared in fx mode"):
        correct_biases(model, batches)
    prepared = prepare_qat_fx(model, {"": QCONFIG}).eval()
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    with pytest.raises(UsageError, match="does not quantize"):
        correct_biases(prepared, batches)
    with pytest.raises(DataError, match="no calibration data"):
        correct_biases(calibrated(model, batches[0]), [])


def test_several_inputs_and_shared_layers():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.qa, self.qb, self.dequant = QuantStub(), QuantStub(), DeQuantStub()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, a, b):
            return self.dequant(self.conv(self.qa(a)) + self.conv(self.qb(b)))

    torch.manual_seed(1)
    pairs = [(torch.rand(4, 3, 5, 5), torch.rand(4, 3, 5, 5)) for _ in range(2)]
    prepared = prepare_qat_fx(Shared().eval(), {"": QCONFIG}).eval()
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    prepared(*pairs[0])
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    assert len(correct_biases(prepared, pairs)) >= 1


def test_models_of_the_seed_document_still_convert_after_it():
    torch.manual_seed(2)
    x = torch.rand(4, 3, 8, 8)
    prepared = calibrated(Plain().eval(), x, get_default_qconfig())
    correct_biases(prepared, [x])
    assert torch.equal(prepared(x).detach(), convert_fx(prepared)(x))
