"""Fake quantizers and observers: rounding, gradients, ranges, several processes; QAT modes with batch normalization."""

import copy
import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from qat_samples import ConvBnRelu, Plain
from torch import nn

from hbtool.errors import UsageError
from hbtool.quantization import (
    DeQuantStub,
    FakeQuantState,
    QuantStub,
    convert,
    convert_fx,
    fuse_modules,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    get_default_qconfig,
    prepare_qat,
    prepare_qat_fx,
    set_fake_quantize,
    set_qat_mode,
)
from hbtool.quantization.observed import fake_quantizers


def _plain(x, scale, low, high):
    return torch.clamp(torch.round(x / scale), low, high) * scale


@pytest.mark.parametrize(("dtype", "low", "high"), [("qint4", -8, 7), ("qint8", -128, 127), ("qint16", -32768, 32767)])
def test_forward_is_the_definition_and_gradient_is_straight_through(dtype, low, high):
    quantizer = get_default_qat_qconfig(dtype).activation()
    quantizer.disable_observer()
    quantizer.scale.fill_(0.01)
    x = (torch.randn(500) * 0.02 * high).requires_grad_()
    y = quantizer(x)
    assert torch.equal(y, _plain(x, torch.tensor([0.01]), low, high))
    y.backward(torch.full_like(y, 3.0))
    inside = (x >= (low - 0.5) * 0.01) & (x <= (high + 0.5) * 0.01)
    assert torch.equal(x.grad, 3.0 * inside)
    assert not inside.all()


@pytest.mark.parametrize("clip", [(0.0, float("inf")), (0.0, 6.0)])
def test_absorbed_activation_is_the_activation_and_then_the_rounding(clip):
    whole, parts = get_default_qat_qconfig().activation(), get_default_qat_qconfig().activation()
    x = (torch.randn(4, 8, 5, 5) * 5).requires_grad_()
    z = x.detach().clone().requires_grad_()
    y = whole(x, clip)
    expected = parts(z.clamp(*clip))
    assert torch.equal(y, expected)
    assert torch.equal(whole.scale, parts.scale)
    y.sum().backward()
    expected.sum().backward()
    # At the upper limit itself (the maximum of the batch) either one-sided gradient is right.
    assert (x.grad != z.grad).sum() <= 1


def test_moving_average_follows_the_published_rule():
    quantizer = get_default_qat_qconfig().activation()
    quantizer(torch.tensor([-1.0, 2.0]))
    quantizer(torch.tensor([-3.0, 1.0]))
    low, high = -1 + 0.01 * (-3 + 1), 2 + 0.01 * (1 - 2)
    observer = quantizer.activation_post_process
    assert observer.min_val.item() == pytest.approx(low)
    assert observer.max_val.item() == pytest.approx(high)
    frozen = get_default_qconfig(activation_qkwargs={"averaging_constant": 0.0}).activation()
    frozen(torch.ones(3))
    frozen(torch.ones(3) * 9)
    assert frozen.scale.item() == pytest.approx(1 / 127.5)


# KL merges bins into 128 levels and cannot keep less than a quarter of the histogram.
@pytest.mark.parametrize(("observer", "most"), [("percentile", 12), ("clip_std", 12), ("kl", 20.1)])
def test_range_leaves_an_outlier_out(observer, most):
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(3))
    x[77] = 80.0
    quantizer = get_default_qconfig(activation_observer=observer).activation()
    quantizer(x)
    assert 2.5 < quantizer.scale.item() * 127.5 < most


@pytest.mark.parametrize("observer", ["mse", "mix"])
@pytest.mark.parametrize("power", [1, 3])
def test_least_squares_observers_find_nearly_the_least_error(observer, power):
    x = torch.randn(30_000, generator=torch.Generator().manual_seed(4)) ** power
    quantizer = get_default_qconfig(activation_observer=observer).activation()
    quantizer(x)

    def error(threshold):
        return (_plain(x, threshold / 127.5, -128, 127) - x).square().sum().item()

    top = x.abs().max()
    if observer == "mse":
        candidates = [top * k / 100 for k in range(1, 101)]
    else:
        shares = torch.tensor([0.999, 0.9995, 0.9999, 0.99995, 0.99999])
        candidates = [*x.abs().quantile(shares, interpolation="higher"), top]
    assert error(quantizer.scale * 127.5) <= 1.1 * min(error(c) for c in candidates)


@pytest.mark.parametrize("observer", ["percentile", "mse", "kl", "mix", "clip_std"])
def test_uniform_range_is_kept(observer):
    quantizer = get_default_qconfig(activation_observer=observer).activation()
    quantizer(torch.rand(200_000, generator=torch.Generator().manual_seed(5)) * 4 - 2)
    assert quantizer.scale.item() * 127.5 == pytest.approx(2.0, rel=0.05)


def test_fixed_scale_and_flags_set_by_hand():
    fixed = get_default_qconfig(activation_observer="fixed_scale", activation_qkwargs={"scale": 1 / 128}).activation()
    fixed(torch.ones(3) * 50)
    assert fixed.scale.item() == 1 / 128
    quantizer = get_default_qat_qconfig().activation()
    x = torch.randn(9)
    quantizer.fake_quant_enabled[0] = 0
    assert torch.equal(quantizer(x), x)
    quantizer.observer_enabled[0] = 0
    quantizer.fake_quant_enabled[0] = 1
    assert not torch.equal(quantizer(x), x)


@pytest.mark.parametrize("kind", ["lsq", "pact"])
def test_learned_range_gets_a_gradient(kind):
    quantizer = get_default_qconfig(kind).activation()
    x = torch.randn(400)
    target = x.clamp(-1, 1)
    parameter = next(quantizer.parameters())
    quantizer(x)
    optimizer = torch.optim.SGD([parameter], lr=1e-4 if kind == "lsq" else 1e-1)
    before = quantizer(x).sub(target).square().mean()
    for _ in range(60):
        optimizer.zero_grad()
        loss = quantizer(x).sub(target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < before.item()


@pytest.mark.parametrize(
    "arguments", [{"activation_observer": "maximum"}, {"weight_observer": "kl"}, {"weight_fake_quant": "x"}]
)
def test_unknown_names_are_refused(arguments):
    with pytest.raises(UsageError):
        get_default_qconfig(**arguments)


def test_shared_module_trains_twice_per_forward():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.quant, self.dequant, self.conv = QuantStub(), DeQuantStub(), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.dequant(self.conv(self.conv(self.quant(x))))

    prepared = prepare_qat_fx(Shared(), {"": get_default_qat_qconfig()})
    prepared(torch.rand(1, 3, 4, 4)).sum().backward()
    assert prepared.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("mode", ["with_bn", "with_bn_reverse_fold"])
def test_batch_normalization_trains_and_is_absorbed_at_convert(mode):
    model = Plain()
    set_qat_mode(mode)
    try:
        prepared = prepare_qat_fx(
            model, {"": get_default_qat_qconfig(), "module_name": {"conv1": get_default_qat_out_qconfig()}}
        )
    finally:
        set_qat_mode("fuse_bn")
    assert type(prepared.layer0[0]).__name__ == "ConvBNReLU2d"
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        prepared(torch.rand(8, 3, 6, 6)).square().mean().backward()
        optimizer.step()
    assert prepared.layer0[0].bn.num_batches_tracked == 4
    prepared.eval()
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    x = torch.rand(8, 3, 6, 6)
    fixed = convert_fx(prepared)
    steps = max(q.scale.max().item() for q in fake_quantizers(prepared).values())
    assert (fixed(x) - prepared(x)).abs().max().item() < 2 * steps
    assert hasattr(prepared.layer0[0], "bn")


def test_eager_mode_swaps_in_place_of_the_modules():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.quant, self.dequant = QuantStub(scale=1 / 128), DeQuantStub()
            self.block, self.head = ConvBnRelu(), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.dequant(self.head(self.block(self.quant(x))))

    model = Model().eval()
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    before = copy.deepcopy(model)(x)
    fused = fuse_modules(model, [["block.0", "block.1", "block.2"]])
    torch.testing.assert_close(fused(x), before)
    fused.qconfig = get_default_qat_qconfig()
    fused.head.qconfig = get_default_qat_out_qconfig()
    prepared = prepare_qat(fused)
    prepared(x)
    assert type(prepared.block[0]).__name__ == "ConvReLU2d"
    assert prepared.quant.activation_post_process.scale.item() == 1 / 128
    assert prepared.head.activation_post_process is None
    assert torch.equal(model(x), before)
    set_fake_quantize(prepared.eval(), FakeQuantState.VALIDATION)
    assert (convert(prepared)(x) - before).abs().max().item() < 0.05


def _observe_part(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    scales = {}
    for observer in ("min_max", "percentile", "mse"):
        quantizer = get_default_qconfig(activation_observer=observer).activation()
        for batch in _batches():
            quantizer(batch.chunk(2)[rank])
        scales[observer] = quantizer.scale
    torch.save(scales, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 64, generator=generator) for _ in range(3)]


def test_two_processes_find_the_scales_of_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(_observe_part, args=(port, str(tmp_path)), nprocs=2, start_method="spawn")
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for observer, scale in both[0].items():
        alone = get_default_qconfig(activation_observer=observer).activation()
        for batch in _batches():
            alone(batch)
        assert torch.equal(scale, both[1][observer])
        assert torch.equal(scale, alone.scale)
