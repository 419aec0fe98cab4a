"""Debug tools of the PyTorch side: what they answer about a small network in its stages."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from qat_samples import Plain
from torch import Tensor, nn

from hbtool.march import March, set_march
from hbtool.quantization import (
    FakeQuantState,
    convert_fx,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hbtool.quantization.quantize_fx import fuse_fx
from hbtool.utils import quant_profiler as tools
from hbtool.utils.quant_profiler import diagnose_training


@pytest.fixture
def example() -> Tensor:
    return torch.randn(2, 3, 6, 6)


@pytest.fixture
def stages(example: Tensor) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Float (fused), calibrated, fixed point."""
    set_march(March.BAYES)
    model = Plain().eval()
    prepared = prepare_qat_fx(copy.deepcopy(model), {"": get_default_qat_qconfig()})
    prepared.eval()
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    prepared(example)
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    return fuse_fx(copy.deepcopy(model)), prepared, convert_fx(copy.deepcopy(prepared))


def test_weights_differ_by_at_most_half_a_step(stages, tmp_path: Path) -> None:
    fused, prepared, fixed = stages
    found = tools.compare_weights(fused, prepared, out_dir=tmp_path)
    assert "conv1.weight" in found
    for pair in found.values():
        per_channel = pair["float"].abs().amax(dim=(1, 2, 3)) / 127.5
        assert ((pair["float"] - pair["quantized"]).abs().amax(dim=(1, 2, 3)) <= per_channel * 0.51 + 1e-7).all()
    assert "conv1.weight" in (tmp_path / "weight_comparison.txt").read_text()
    assert tools.compare_weights(fused, fixed).keys() == found.keys()


def test_features_and_statistics(stages, example: Tensor, tmp_path: Path) -> None:
    _, prepared, _ = stages
    features = tools.get_raw_features(prepared, example)
    names = {(f["module_name"], f["attr"]) for f in features}
    assert ("conv1", "output") in names and ("conv1", "weight") in names and ("conv1", "input-0") in names
    only = tools.get_raw_features(prepared, example, prefixes=("layer0",))
    assert only and all(f["module_name"].startswith("layer0") for f in only)
    rows = tools.profile_featuremap(features, out_dir=tmp_path)
    low = {(r[1], r[2]): r[3] for r in rows}
    assert low["quant", "input-0"] == pytest.approx(float(example.min()))
    text = (tmp_path / "statistic.txt").read_text()
    assert "descending order" in text


def test_a_fixed_point_model_gives_the_bits_of_the_definition(stages, example: Tensor, tmp_path: Path) -> None:
    fixed = stages[2]
    values = tools.script_profile(fixed, example, out_dir=tmp_path)
    assert values and "same with hbdk parser" in (tmp_path / "script_profile.txt").read_text()
    assert "NOT same" not in (tmp_path / "script_profile.txt").read_text()
    assert all(equal for _, equal in tools.compare_script_models(fixed, fixed, example))


def test_two_fixed_point_models_that_differ(stages, example: Tensor) -> None:
    _, prepared, fixed = stages
    other = copy.deepcopy(prepared)
    with torch.no_grad():
        other.get_submodule("conv1").weight.mul_(-1.0)
    rows = tools.compare_script_models(fixed, convert_fx(other), example)
    assert not all(equal for _, equal in rows)


@pytest.mark.parametrize("mode", ["FvsQ", "QvsQ"])
def test_the_profiler_page_holds_every_tool(stages, example: Tensor, tmp_path: Path, mode: str) -> None:
    fused, prepared, fixed = stages
    pair = (fused, prepared) if mode == "FvsQ" else (prepared, fixed)
    page = tools.model_profiler(*pair, example, mode, tmp_path).read_text()
    for name in (
        "featuremap_similarity",
        "check_qconfig",
        "get_module_called_count",
        "compare_weights",
        "profile_featuremap",
        "check_deploy_device",
    ):
        assert f'<h2 id="{name}">' in page


def trained(prepared: nn.Module) -> nn.Module:
    prepared.train()
    set_fake_quantize(prepared, FakeQuantState.QAT)
    return prepared


def test_nothing_is_found_where_training_works(stages, example: Tensor) -> None:
    model = trained(stages[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert diagnose_training(model, optimizer, example, lambda y: y.square().mean()) == []
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def checks(findings: list[tools.TrainingFinding]) -> set[str]:
    return {f.check for f in findings}


def test_an_optimizer_of_the_float_model_is_named() -> None:
    set_march(March.BAYES)
    model = Plain()
    optimizer = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.01)
    prepared = trained(prepare_qat_fx(model, {"": get_default_qat_qconfig()}))
    found = diagnose_training(prepared, optimizer)
    assert {"optimizer", "scale"} <= checks(found)
    assert "before prepare" in str(found[0])


def test_flags_are_named(stages) -> None:
    prepared = stages[1]
    assert {"training flag", "observers"} <= checks(diagnose_training(prepared))
    prepared.train()
    with pytest.warns(UserWarning, match="eval"):
        set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    assert "fake quantizers" in checks(diagnose_training(prepared))


def test_the_first_module_with_nan_is_named(stages, example: Tensor) -> None:
    model = trained(stages[1])
    with torch.no_grad():
        model.get_submodule("conv1").weight[0, 0, 0, 0] = float("nan")
    found = diagnose_training(model, None, example)
    assert {"parameters", "forward"} <= checks(found)
    assert next(f for f in found if f.check == "forward").where == "conv1"


def test_the_first_infinite_gradient_is_named(stages, example: Tensor) -> None:
    model = trained(stages[1])
    found = diagnose_training(model, None, example, lambda y: (y - y.detach()).abs().sqrt().sum())
    assert checks(found) == {"gradient"}


@pytest.mark.parametrize(
    ("scale", "says"), [(0.0, "0 or negative"), (float("nan"), "NaN or infinite"), (1e8, "explode")]
)
def test_an_impossible_scale_is_named(stages, scale: float, says: str) -> None:
    model = trained(stages[1])
    model.get_submodule("layer1.conv").activation_post_process.scale.fill_(scale)
    found = [f for f in diagnose_training(model) if f.check == "scale"]
    assert [f.where for f in found] == ["layer1.conv.activation_post_process"] and says in found[0].text


def test_a_scale_that_is_still_one_is_named(example: Tensor) -> None:
    set_march(March.BAYES)
    found = diagnose_training(trained(prepare_qat_fx(Plain(), {"": get_default_qat_qconfig()})))
    assert any(f.check == "scale" and "their initial value" in f.text for f in found)


def test_frozen_parameters_and_a_rate_of_zero_are_named(stages) -> None:
    model = trained(stages[1])
    model.get_submodule("conv1").weight.requires_grad_(False)
    found = diagnose_training(model, torch.optim.SGD(model.parameters(), lr=0.0))
    assert {"parameters", "optimizer"} <= checks(found)
    assert any("learning rate is 0" in f.text for f in found)


def test_bad_input_is_told_from_a_bad_model(stages) -> None:
    found = diagnose_training(trained(stages[1]), None, torch.full((1, 3, 6, 6), float("nan")))
    assert [f.check for f in found] == ["forward"] and "input 0 itself" in found[0].text
