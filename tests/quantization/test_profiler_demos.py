"""The published demos of the debug tools: messages of check_qconfig, unfused operations, called counts, similarity."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from qat_samples import ConvAddRelu, ConvBnRelu, GoldenChain, Plain, golden_input
from torch import Tensor, nn

from hbtool.errors import UsageError
from hbtool.march import March, set_march
from hbtool.nn.functional_module import FloatFunctional
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
from hbtool.quantization.quantize_fx import fuse_fx
from hbtool.utils import quant_profiler as tools


@pytest.fixture(autouse=True)
def march() -> None:
    set_march(March.BAYES)


def calibrated(model: nn.Module, *batch: Tensor, **more: object) -> nn.Module:
    prepared = prepare_qat_fx(copy.deepcopy(model), {"": get_default_qat_qconfig(), **more}).eval()
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    prepared(*batch)
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    return prepared


class Messages(nn.Module):
    """One operator for every message of check_qconfig, and sound ones around them."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(scale=1 / 128), DeQuantStub()
        self.wide = nn.Conv2d(3, 3, 1)
        self.mul, self.add, self.sound = FloatFunctional(), FloatFunctional(), FloatFunctional()
        self.fine = QuantStub(scale=1 / 32768)
        self.conv, self.left = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.fine(x)
        x = self.quant(x)
        y = self.wide(x)
        z = self.add.add(self.mul.mul(x, y), weights)
        z = self.sound.add(z, x).reshape(z.shape)
        return self.dequant(self.conv(z)), F.relu(self.left(self.dequant(z)))


def test_check_qconfig_prints_seven_messages(tmp_path: Path) -> None:
    wide = get_default_qat_qconfig(weight_dtype="qint16")
    int16 = get_default_qat_qconfig(dtype="qint16")
    names = {"wide": wide, "fine": int16, "mul": int16, "conv": get_default_qat_out_qconfig(), "left": None}
    x = torch.rand(1, 3, 6, 6) * 2 - 1
    model = calibrated(Messages(), x, module_name=names)
    found = tools.check_qconfig(model, x, out_dir=tmp_path)
    assert found == [
        "fine: Fixed scale 3.05e-05",
        "quant: Fixed scale 0.00781",
        "wide: qint16 weight!!!",
        "mul: input dtype ['qint8', 'qint8'] is not same with out dtype qint16",
        "add: input dtype ['qint16', 'qint16'] is not same with out dtype qint8",
        "conv: high-precision output",
        "left: un-quantized output (qconfig = None)",
    ]
    text = (tmp_path / "qconfig_info.txt").read_text()
    assert text.index("each layer out qconfig") < text.index("weight qconfig") < text.index("Please check if these OPs")
    assert all(message.split(": ", 1)[1] in text for message in found)


def test_check_qconfig_chooses_and_calls_back() -> None:
    x = torch.rand(1, 3, 6, 6)
    model = calibrated(Plain(), x)
    seen: list[str] = []
    tools.check_qconfig(model, x, prefixes=("layer1",), custom_check_func=lambda m, i, o: seen.append(type(m).__name__))
    assert "Conv2d" in seen and "QuantStub" not in seen


def test_check_qconfig_leaves_the_state_alone() -> None:
    x = torch.rand(1, 3, 6, 6)
    model = prepare_qat_fx(Plain(), {"": get_default_qat_qconfig()})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tools.check_qconfig(model, x)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Unfused(nn.Module):
    """Pairs that fuse, and one convolution that two readers keep apart from its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = ConvBnRelu(), ConvAddRelu(bn=True)
        self.alone, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.alone(self.second(self.first(x)))
        return self.relu(y) + y


def test_unfused_operations_are_listed_in_groups(caplog: pytest.LogCaptureFixture) -> None:
    model = Unfused().eval()
    x = torch.rand(1, 3, 6, 6)
    with caplog.at_level(logging.INFO, logger="hbtool.utils.quant_profiler"):
        found = tools.check_unfused_operations(model, x)
    assert found == [
        ["first.0", "first.1", "first.2"],
        ["second.conv", "second.bn", "second.add", "second.relu"],
    ]
    assert "BatchNorm2d" in caplog.text and "name" in caplog.text
    assert tools.check_unfused_operations(fuse_fx(model), x) == []
    with pytest.raises(UsageError, match="float models only"):
        tools.check_unfused_operations(calibrated(Plain(), x), x)


class Called(nn.Module):
    """One module for each count."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.shared, self.unused = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.once(self.shared(x)))


def test_called_counts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hbtool.utils.quant_profiler"):
        counts = tools.get_module_called_count(Called(), torch.rand(1, 3, 4, 4))
    assert counts == {"once": 1, "shared": 2, "unused": 0}
    assert "called times" in caplog.text
    assert tools.get_module_called_count(Called(), torch.rand(1, 3, 4, 4), lambda m: isinstance(m, nn.Conv2d)) == {
        "once": 1, "unused": 0}  # fmt: skip


@pytest.fixture
def golden() -> tuple[nn.Module, nn.Module]:
    """The published chain after one QAT forward, and its fixed-point form."""
    model = prepare_qat_fx(GoldenChain(), {"": get_default_qat_qconfig()})
    x = golden_input()
    model(x, x)
    model.eval()
    return model, convert_fx(model)


def test_similarity_reproduces_the_published_table(golden: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    x = golden_input()
    rows = {r[1]: r for r in tools.featuremap_similarity(*golden, (x, x), out_dir=tmp_path)}
    for name, similarity, scale, accumulated, same_input in (
        ("quant_stubx", 1.0, 0.0115294, 0, 0),
        ("mul_op", 0.9999989, 0.0168156, 1, 1),
        ("cat_op", 0.9999972, 0.0167490, 2, 0),
        ("cat_op(1)", 0.9999979, 0.0167490, 2, 0),
        ("sigmoid", 1.0, 0.0070079, 0, 0),
        ("silu", 1.0, 0.0005042, 0, 0),
    ):
        row = rows[name]
        assert row[3] == pytest.approx(similarity, abs=1.5e-7) and row[4] == pytest.approx(scale, abs=6e-8)
        assert (round(row[6]), round(row[7])) == (accumulated, same_input)
    text = (tmp_path / "similarity.txt").read_text()
    header = "Acc Error (N out_qscale)  Op Error with Same Input (N out_qscale)"
    assert header in text and "0.9999989" in text
    ordered = (tmp_path / "ordered_op_error_similarity.txt").read_text().splitlines()
    assert "mul_op" in ordered[2]
    assert "<svg" in (tmp_path / "similarity.html").read_text()


@pytest.mark.parametrize("name", ["Cosine", "MSE", "L1", "KL", "SQNR", lambda a, b: (a - b).abs().max()])
def test_every_similarity_of_float_against_calibrated(name: object) -> None:
    x = torch.rand(2, 3, 6, 6)
    model = Plain().eval()
    prepared = calibrated(model, x)
    rows = tools.featuremap_similarity(model, prepared, x, similarity_func=name)
    names = "quant layer0.0 layer1.conv layer1.bn(I|vs|I) layer1.add layer1.relu layer2.add conv1"
    assert [r[1] for r in rows] == [n.replace("|", " ") for n in names.split()]
    assert rows == tools.featuremap_similarity(fuse_fx(copy.deepcopy(model)), prepared, x, similarity_func=name)
    assert all(r[6] is None or r[6] >= r[7] - 1 for r in rows)


def test_similarity_of_neighbouring_stages() -> None:
    x = torch.rand(2, 3, 6, 6)
    prepared = calibrated(Plain(), x)
    moved = copy.deepcopy(prepared)
    with torch.no_grad():
        moved.get_submodule("conv1").weight.mul_(1.5)
    rows = {r[1]: r for r in tools.featuremap_similarity(prepared, moved, x)}
    assert rows["layer2.add"][5] == 0 and rows["conv1"][5] > 0
    assert {r[1] for r in tools.featuremap_similarity(prepared, convert_fx(prepared), x)} >= {"quant", "conv1"}
    with pytest.raises(UsageError, match="unknown similarity"):
        tools.featuremap_similarity(prepared, moved, x, "Cosinus")
    with pytest.raises(UsageError, match="no operator in common"):
        tools.featuremap_similarity(nn.Sequential(nn.ReLU()), nn.Sequential(nn.Sequential(nn.ReLU())), x)


def test_similarity_on_a_pair_of_devices() -> None:
    x = torch.rand(1, 3, 6, 6)
    prepared = calibrated(Plain(), x)
    rows = tools.featuremap_similarity(prepared, copy.deepcopy(prepared), x, devices=("cpu", torch.device("cpu")))
    assert all(r[3] == 1 for r in rows)


def test_identities_are_marked() -> None:
    first, second = nn.Sequential(nn.Identity(), nn.ReLU()), nn.Sequential(nn.ReLU(), nn.ReLU())
    names = [r[1] for r in tools.featuremap_similarity(first, second, torch.rand(1, 3))]
    assert names == ["0(I)", "1"]
    assert tools.featuremap_similarity(first, first, torch.rand(1, 3))[0][1] == "0(I vs I)"


def test_preserved_modules_stay_in_qat_form() -> None:
    x = torch.rand(2, 3, 6, 6)
    prepared = calibrated(Plain(), x)

    def float_nodes(model: nn.Module) -> list[str]:
        return [n.op_type for n in convert_fx(model).integer_graph(x).graph if n.domain == ""]

    assert float_nodes(copy.deepcopy(prepared)) == []
    marked = copy.deepcopy(prepared)
    tools.set_preserve_qat_mode(marked, ("layer1.conv",))
    assert float_nodes(marked).count("Conv") == 1
    whole = copy.deepcopy(prepared)
    tools.set_preserve_qat_mode(whole, types=(nn.Conv2d,))
    assert float_nodes(whole).count("Conv") == 4
    step = prepared.get_submodule("conv1").activation_post_process.scale.item()
    assert (convert_fx(whole)(x) - prepared(x)).abs().max() <= 3 * step
    tools.set_preserve_qat_mode(whole, types=(nn.Conv2d,), value=False)
    assert float_nodes(whole) == []


def test_the_mark_of_a_float_convolution_survives_fusion() -> None:
    x = torch.rand(2, 3, 6, 6)
    model = Plain().eval()
    tools.set_preserve_qat_mode(model, ("layer2.conv",))
    fixed = convert_fx(calibrated(model, x))
    names = [n.name for n in fixed.integer_graph(x).graph if n.domain == "" and n.op_type == "Conv"]
    assert names == ["layer2.add/Conv"]
    with pytest.raises(UsageError, match="converted already"):
        tools.set_preserve_qat_mode(fixed)
    with pytest.raises(UsageError, match="no module matches"):
        tools.set_preserve_qat_mode(model, ("layer9",))


def test_memory_is_counted_without_cuda(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
    x = torch.rand(4, 3, 32, 32)
    steps = tools.show_cuda_memory_consumption(model, x, "cuda:0", out_dir=tmp_path)
    assert "there is no CUDA device" in caplog.text
    assert [name for name, _ in steps][:4] == ["start", "forward 0", "forward 1", "forward 2"]
    at = dict(steps)
    parameters = sum(p.nbytes for p in model.parameters()) / 2**20
    assert at["start"] == pytest.approx(parameters, abs=1e-6)
    assert at["forward 1"] - at["start"] == pytest.approx((x.nbytes + 4 * 64 * 30 * 30 * 4) / 2**20, rel=0.01)
    assert at["end"] == pytest.approx(parameters, abs=1e-6)
    assert "<svg" in (tmp_path / "mem_info.html").read_text()
    assert all(p.grad is None for p in model.parameters())


def test_custom_backward_and_file_name(tmp_path: Path) -> None:
    called = []
    tools.show_cuda_memory_consumption(
        nn.Linear(3, 3), torch.rand(2, 3), "cpu", lambda m: True, tmp_path, "mine", lambda y: called.append(y.shape)
    )
    assert called == [torch.Size([2, 3])] and (tmp_path / "mine.html").is_file()
