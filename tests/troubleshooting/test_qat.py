"""The questions and failures of the QAT plugin's users, each produced on a small model."""

from __future__ import annotations

import copy
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from troubled import says

import hbtool
from hbtool.errors import HbError
from hbtool.flows import doctor as doctor_flow
from hbtool.march import March, set_march
from hbtool.nn.functional_module import FloatFunctional
from hbtool.nn.grid_sample import GridSample, from_torch_grid, to_torch_grid
from hbtool.quantization import (
    DeQuantStub,
    FakeQuantState,
    QuantStub,
    convert_fx,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hbtool.quantization.compile import check_model
from hbtool.utils.onnx_helper import export_quantized_onnx, export_to_onnx
from hbtool.utils.quant_profiler import check_qconfig, diagnose_training

Body = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """quant -> body -> dequant, with two convolutions to use."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.body(self, self.quant(x)))


@pytest.fixture(autouse=True)
def march() -> None:
    set_march(March.BAYES)


@pytest.fixture
def batch() -> Tensor:
    return torch.rand(2, 4, 6, 6) * 2 - 1


def two(m: Net, x: Tensor) -> Tensor:
    return m.conv2(F.relu(m.conv(x)))


def calibrated(model: nn.Module, batch: Tensor, **more: object) -> nn.Module:
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig(), **more}).eval()
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    prepared(batch)
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    return prepared


def works(body: Body, batch: Tensor) -> None:
    """Prepare, calibrate, convert; the integers are near the float model."""
    model = Net(body).eval()
    fixed = convert_fx(calibrated(copy.deepcopy(model), batch))
    want, got = model(batch), fixed(batch)
    assert (got - want).abs().max() < 0.05 * want.abs().max() + 0.02


def refused(body: Body, **more: object) -> str:
    with pytest.raises(HbError) as caught:
        prepare_qat_fx(Net(body), {"": get_default_qat_qconfig(), **more})
    assert caught.value.hint and caught.value.where
    return str(caught.value)


def test_env_1() -> None:
    found = {f.topic: f for f in doctor_flow.doctor(self_test=False).findings}[says("env_1")]
    assert found.status != "failed" and ("available" in found.facts or found.facts["torch"] is None)


def test_env_2() -> None:
    result = doctor_flow.doctor()
    assert result.passed
    assert says("env_2") in next(f.text for f in result.findings if f.topic == "self-test")


def _half(rank: int, port: int, folder: str) -> None:
    """One of two processes: it sees half of the batch."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    set_march(March.BAYES)
    prepared = _seeded()
    prepared(_whole_batch().chunk(2)[rank])
    torch.save(prepared.quant.activation_post_process.scale, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _seeded() -> nn.Module:
    torch.manual_seed(0)
    return prepare_qat_fx(Net(two), {"": get_default_qat_qconfig()})


def _whole_batch() -> Tensor:
    return torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(3))


def test_qat_1(tmp_path: Path) -> None:
    """The scale does not depend on the number of processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(_half, args=(port, str(tmp_path)), nprocs=2, start_method="spawn")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = _seeded()
    alone(_whole_batch())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], alone.quant.activation_post_process.scale)


def test_qat_2(batch: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(HbError, match=says("qat_2")):
        prepare_qat_fx(Net(two), {"": "int8 please"})
    # What the march cannot run in the type that was asked for is listed, and made legal.
    int16 = {"": get_default_qat_qconfig(dtype="qint16")}
    prepared = calibrated(Net(lambda m, x: F.max_pool2d(m.conv(x), 2)).eval(), batch, **int16)
    assert "int8 instead of int16" in caplog.text and prepared.hb.widths


def test_qat_3(batch: Tensor, tmp_path: Path) -> None:
    prepared = calibrated(Net(two).eval(), batch)
    export_to_onnx(prepared, batch, tmp_path / "qat.onnx", enable_onnx_checker=True)
    fixed = convert_fx(prepared)
    export_quantized_onnx(fixed, batch, tmp_path / "quantized.onnx")
    assert "QuantizeLinear" in {n.op_type for n in onnx.load(tmp_path / "qat.onnx").graph.node}
    session = onnxruntime.InferenceSession(tmp_path / "quantized.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    assert torch.equal(torch.from_numpy(got), fixed(batch))


def test_qat_4(batch: Tensor) -> None:
    model = calibrated(Net(two).eval(), batch).train()
    set_fake_quantize(model, FakeQuantState.QAT)
    with torch.no_grad():
        model.conv2.weight[0] = float("inf")
    found = next(f for f in diagnose_training(model, None, batch) if f.check == "forward")
    assert found.where == "conv2" and says("qat_4") in found.text


def test_qat_5() -> None:
    text = refused(two, module_name={"conv3": get_default_qat_out_qconfig()})
    assert says("qat_5") in text and "conv2" in text


def test_qat_6(batch: Tensor) -> None:
    prepared = calibrated(Net(two).eval(), batch, module_name={"conv2": get_default_qat_out_qconfig()})
    assert f"conv2: {says('qat_6')}" in check_qconfig(prepared, batch)
    assert "(activation_post_process): FakeQuantize" not in repr(prepared.conv2)
    assert "(activation_post_process): FakeQuantize" in repr(prepared.conv)


class WithBranch(Net):
    """A second output for training only."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shared = self.conv(self.quant(x))
        return self.dequant(shared), self.conv2(self.dequant(shared))


def test_qat_7(batch: Tensor) -> None:
    prepared = calibrated(WithBranch(two).eval(), batch, module_name={"conv2": None})
    assert type(prepared.conv2) is nn.Conv2d
    assert len(prepared(batch)) == 2


def test_qat_8() -> None:
    x, offsets = torch.rand(1, 2, 5, 7), torch.rand(1, 5, 7, 2) - 0.5
    grid = to_torch_grid(offsets, 5, 7)
    torch.testing.assert_close(GridSample()(x, offsets), F.grid_sample(x, grid, align_corners=True))
    torch.testing.assert_close(from_torch_grid(grid, 5, 7), offsets, atol=1e-5, rtol=1e-4)


def test_qat_9(batch: Tensor) -> None:
    model = Net(two)
    optimizer = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1)
    prepared = calibrated(model.eval(), batch).train()
    set_fake_quantize(prepared, FakeQuantState.QAT)
    found = diagnose_training(prepared, optimizer)
    assert found[0].check == "optimizer" and says("qat_9") in found[0].text
    good = diagnose_training(prepared, torch.optim.SGD(prepared.parameters(), lr=0.1), batch)
    assert good == []


class Rewritten(Net):
    """The form that the vendor's answer asks for."""

    def __init__(self) -> None:
        super().__init__(two)
        self.add = FloatFunctional()
        self.register_buffer("epsilon", torch.tensor([0.25]))
        self.quant_epsilon = QuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.add.add(self.conv(self.quant(x)), self.quant_epsilon(self.epsilon)))


def test_qat_10(batch: Tensor) -> None:
    works(lambda m, x: (m.conv(x) + 0.25) * 2 - 1e-4, batch)
    model = Rewritten().eval()
    fixed = convert_fx(calibrated(copy.deepcopy(model), batch))
    assert (fixed(batch) - model(batch)).abs().max() < 0.1


def test_failure_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(hbtool.__file__).parent
    assert not [*package.rglob("*.so"), *package.rglob("*.pyd")]
    (tmp_path / "hbtool").mkdir()
    (tmp_path / "hbtool" / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    result = doctor_flow.doctor(self_test=False)
    assert not result.passed
    assert says("failure_1") in next(f.text for f in result.findings if f.topic == "installation")


def test_failure_2(batch: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    works(two, batch)


def test_failure_3(batch: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    model = Net(lambda m, x: m.conv(x) * m.kept)
    model.kept = nn.Parameter(torch.ones(1, 4, 1, 1)) * 2
    with pytest.raises(RuntimeError, match="deepcopy protocol"):
        copy.deepcopy(model)
    with caplog.at_level(logging.WARNING):
        prepare_qat_fx(model, {"": get_default_qat_qconfig()})(batch)
    assert says("failure_3") in caplog.text and "kept" in caplog.text


class Conv1d(nn.Conv2d):
    """The sub-class of the vendor's question."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.squeeze(super().forward(torch.unsqueeze(x, -2)), -2)


def test_failure_4() -> None:
    model = Net(lambda m, x: m.special(x))
    model.special = Conv1d(4, 4, 1)
    x = torch.rand(2, 4, 9)
    fixed = convert_fx(calibrated(model.eval(), x))
    assert (fixed(x) - model(x)).abs().max() < 0.05


def test_failure_5(batch: Tensor) -> None:
    import multiprocessing

    works(two, batch)
    assert multiprocessing.active_children() == []


def test_failure_6(batch: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    model = Net(lambda m, x: m.conv2(m.far(m.conv(x))))
    model.far = nn.Conv2d(4, 4, 3, padding=40, dilation=40)
    fixed = convert_fx(calibrated(model.eval(), batch))
    with caplog.at_level(logging.ERROR):
        code = check_model(fixed, batch)
    assert code == 1 and says("failure_6") in caplog.text and "dilation" in caplog.text


class Nothing(Net):
    """forward without return."""

    def forward(self, x: Tensor) -> None:
        self.conv(self.quant(x))


def test_failure_7() -> None:
    with pytest.raises(HbError, match=says("failure_7")):
        prepare_qat_fx(Nothing(two), {"": get_default_qat_qconfig()})


def test_failure_8() -> None:
    text = refused(lambda m, x: torch.from_numpy(m.conv(x).detach().numpy() > 0.5))
    assert says("failure_8") in text and "wrap" in text


def test_failure_9() -> None:
    text = refused(lambda m, x: m.conv2(m.conv(x)), module_name={"conv": get_default_qat_out_qconfig()})
    assert says("failure_9") in text and "conv2" in text


def branch_on_value(m: Net, x: Tensor) -> Tensor:
    if x.sum() > 0:
        return m.conv(x)
    return m.conv2(x)


def test_failure_10() -> None:
    text = refused(branch_on_value)
    assert says("failure_10") in text and "test_qat.py:" in text and "wrap" in text


@pytest.mark.parametrize("index", [0, -1])
def test_failure_11(batch: Tensor, index: int) -> None:
    works(lambda m, x: m.conv(x)[:, index], batch)


def test_failure_12(batch: Tensor) -> None:
    works(lambda m, x: m.conv2(-m.conv(x)), batch)


def test_failure_13(batch: Tensor) -> None:
    works(lambda m, x: m.conv2(1 - m.conv(x)), batch)
