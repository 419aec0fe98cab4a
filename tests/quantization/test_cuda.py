"""The PyTorch side on a GPU: the same scales as far as float allows, and the same integers exactly."""

import copy

import pytest
import torch
import torch.nn.functional as F
from qat_samples import Plain
from test_agreement import QCONFIGS, Small

from hbtool.quantization import (
    FakeQuantState,
    agreement,
    convert_fx,
    correct_biases,
    get_default_qconfig,
    prepare_qat_fx,
    set_exact_mode,
    set_fake_quantize,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


def calibrated(observer: str = "min_max", scheme: torch.qscheme = torch.per_tensor_symmetric):
    torch.manual_seed(3)
    qconfig = get_default_qconfig(activation_observer=observer, activation_qkwargs={"qscheme": scheme})
    model = prepare_qat_fx(Small().eval().cuda(), {**QCONFIGS, "": qconfig}).eval()
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    x = torch.randn(4, 3, 33, 31)
    with torch.no_grad():
        model(x.cuda())
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    return model, x


def on_cpu(model):
    return copy.deepcopy(model).cpu()


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("scheme", [torch.per_tensor_symmetric, torch.per_tensor_affine])
def test_fixed_point_has_the_same_bits_on_gpu_and_cpu(scheme, tf32):
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        model, x = calibrated(scheme=scheme)
        fixed = convert_fx(model)
        got = fixed(x.cuda())
        assert got.is_cuda
        assert torch.equal(got.cpu(), convert_fx(on_cpu(model))(x))
        assert agreement(model, x.cuda()).outputs == 1.0
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("observer", ["min_max", "percentile", "mse", "kl", "mix", "clip_std"])
def test_observers_and_bias_correction_stay_on_the_gpu(observer):
    model, x = calibrated(observer)
    correct_biases(model, [x.cuda()])
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cuda"}


@pytest.mark.parametrize("amp", [False, True])
def test_training_steps(amp):
    model, x = calibrated()
    labels = torch.arange(4).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    model.train()
    set_fake_quantize(model, FakeQuantState.QAT)
    losses = []
    for _ in range(4):
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            loss = F.cross_entropy(model(x.cuda()).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_exact_mode_and_learned_scales():
    model, x = calibrated()
    model.train()
    set_fake_quantize(model, FakeQuantState.QAT)
    set_exact_mode(model)
    model(x.cuda()).sum().backward()
    learned = prepare_qat_fx(Plain().cuda(), {"": get_default_qconfig("lsq", "lsq")}).train()
    learned(torch.rand(2, 3, 8, 8, device="cuda")).sum().backward()
    assert all(p.grad is not None for p in learned.parameters())
