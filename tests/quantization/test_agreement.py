"""QAT in VALIDATION state against the fixed-point model, layer by layer; exact mode trains what is deployed."""

import pytest
import torch
import torch.nn.functional as F
from qat_samples import GoldenChain, Plain, golden_input
from torch import nn

from hbtool.errors import UsageError
from hbtool.quantization import (
    DeQuantStub,
    FakeQuantState,
    QuantStub,
    agreement,
    convert_fx,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    get_default_qconfig,
    prepare_qat_fx,
    set_exact_mode,
    set_fake_quantize,
)
from hbtool.quantization.compare_codes import integer_values


class Small(nn.Module):
    """Strided, grouped and padded convolutions, two residual sums, pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6())
        self.depth = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.point = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.second = nn.Conv2d(16, 16, 3, padding="same")
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(self.quant(x))
        x = x + self.point(self.depth(x))
        x = F.relu(self.second(x) + x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.dequant(self.head(x))


QCONFIGS = {"": get_default_qat_qconfig(), "module_name": [("head", get_default_qat_out_qconfig())]}


def _trained(model, x, qconfigs=QCONFIGS):
    prepared = prepare_qat_fx(model, qconfigs)
    prepared.train()
    for _ in range(3):
        prepared(x)
    prepared.eval()
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    return prepared


def test_validation_and_fixed_point_agree_to_the_last_bit():
    x = torch.randn(4, 3, 33, 31)
    model = _trained(Small(), x)
    report = agreement(model, torch.randn(4, 3, 33, 31))
    assert {"quant", "stem.0", "depth.0", "_generated_add_0", "_generated_add_1"} <= {row.name for row in report.layers}
    assert all(row.elements > 0 for row in report.layers)
    assert [(row.name, row.largest_steps) for row in report.layers if row.rate < 1] == []
    assert report.outputs == 1.0


def test_gradients_pass_through_the_deployed_forward():
    x = torch.randn(2, 3, 16, 16)
    model = _trained(Small(), x)
    out = model(x)
    out.square().sum().backward()
    assert torch.equal(out.detach(), convert_fx(model)(x))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert sum(float(p.grad.abs().sum()) for p in model.parameters()) > 0


def test_bias_that_fusion_made_is_trained():
    prepared = prepare_qat_fx(Small(), QCONFIGS)
    assert [n for n, p in prepared.named_parameters() if not p.requires_grad] == []


def test_published_difference_of_multipliers_is_reported():
    x = golden_input()
    model = prepare_qat_fx(GoldenChain(), {"": get_default_qat_qconfig()})
    model(x, x)
    rows = {row.name: row for row in agreement(model, x, x).layers}
    assert rows["mul_op"].largest_steps == 1 and rows["mul_op"].identical == rows["mul_op"].elements - 1
    assert rows["sigmoid"].rate == rows["quant_stubx"].rate == 1.0


def test_copy_of_a_calibrating_model_is_quantized():
    """Versions of copied buffers start at 0; a copy must not inherit what was read for other versions."""
    prepared = prepare_qat_fx(Plain(), {"": get_default_qat_qconfig()})
    prepared.eval()
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        prepared(x)
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    graph = convert_fx(prepared).integer_graph(x)
    assert "Conv" in {n.op_type for n in graph.graph if n.domain}


def test_exact_mode_trains_what_is_deployed():
    x, labels = torch.randn(8, 3, 16, 16), torch.arange(8)
    model = _trained(Small(), x)
    set_exact_mode(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        model.train()
        set_fake_quantize(model, FakeQuantState.QAT)
        deployed = convert_fx(model)(x)
        out = model(x)
        loss = F.cross_entropy(out, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert deployed.shape == out.shape
    model.eval()
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    assert torch.equal(model(x), convert_fx(model)(x))
    set_exact_mode(model, False)
    assert torch.equal(model(x), convert_fx(model)(x))


def test_exact_mode_covers_operators_that_fake_quantization_only_approximates():
    x = golden_input()
    model = prepare_qat_fx(GoldenChain(), {"": get_default_qat_qconfig()})
    model(x, x)
    fixed = convert_fx(model)
    model.train()
    set_exact_mode(model)
    assert torch.equal(model(x, x).detach(), fixed(x, x))
    steps = []
    model.mul_op.register_forward_hook(lambda _, __, y: steps.append(y.detach().clone()))
    model(x, x)
    program = fixed.program(x, x)
    integers, q = integer_values(program, x, x)["mul_op"][0]
    assert torch.equal(steps[0], integers.float() * torch.tensor(q.scale, dtype=torch.float32))


def test_exact_mode_refuses_what_it_cannot_keep():
    with pytest.raises(UsageError, match="fx mode"):
        set_exact_mode(nn.Linear(2, 2))
    learned = prepare_qat_fx(Small(), {"": get_default_qconfig("lsq", "lsq")})
    with pytest.raises(UsageError, match="learns its scale"):
        set_exact_mode(learned)


def test_fused_sum_of_int16_keeps_its_range():
    """An operand finer than the sum's own step would leave int16 where that step is the smallest already."""
    torch.manual_seed(1)
    x = torch.randn(4, 3, 17, 17)
    qconfigs = {"": get_default_qat_qconfig(dtype="qint16"), "module_name": [("head", get_default_qat_out_qconfig())]}
    float_model = Small().eval()
    model = prepare_qat_fx(float_model, qconfigs).eval()
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    model(x)
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    want = float_model(x)
    assert (model(x) - want).abs().max() < 0.02 * want.abs().max()
    rates = {row.name: row.rate for row in agreement(model, x).layers}
    assert {"_generated_add_0", "_generated_add_1"} <= {name for name, rate in rates.items() if rate == 1.0}


@pytest.mark.parametrize("observer", ["min_max", "mse", "percentile", "kl"])
def test_zero_points_agree_to_the_last_bit_and_keep_more_of_what_is_never_negative(observer):
    torch.manual_seed(2)
    x = torch.randn(4, 3, 33, 31)
    float_model = Small().eval()
    errors = []
    for qscheme in (torch.per_tensor_symmetric, torch.per_tensor_affine):
        qconfig = get_default_qconfig(activation_observer=observer, activation_qkwargs={"qscheme": qscheme})
        model = prepare_qat_fx(float_model, {"": qconfig, "module_name": [("head", get_default_qat_out_qconfig())]})
        model.eval()
        set_fake_quantize(model, FakeQuantState.CALIBRATION)
        with torch.no_grad():
            model(x)
            set_fake_quantize(model, FakeQuantState.VALIDATION)
            errors.append((model(x) - float_model(x)).norm())
        report = agreement(model, x)
        assert [(row.name, row.largest_steps) for row in report.layers if row.rate < 1] == []
        assert report.outputs == 1.0
    assert errors[1] < errors[0]
    zero_points = {int(model.get_submodule(p).activation_post_process.zero_point) for p in ("quant", "stem.0")}
    assert -128 in zero_points and len(zero_points) == 2
