"""The newest generation of the API: templates of qconfigs, prepare with a report, export, convert, compile."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from qat_samples import Plain
from torch import Tensor, nn

from hbtool import compat
from hbtool.errors import UsageError
from hbtool.qat_mode import ConsistencyStrategy
from hbtool.quantization import (
    ConvDtypeTemplate,
    DeQuantStub,
    FakeQuantState,
    HistogramObserver,
    MatmulDtypeTemplate,
    ModuleNameTemplate,
    QconfigSetter,
    QuantStub,
    SensitivityTemplate,
    get_default_qat_qconfig,
    get_qconfig,
    hbdk4,
    load_calib_state_dict,
    prepare,
    prepare_qat_fx,
    qint8,
    qint16,
    set_fake_quantize,
    weight_reconstruction,
)
from hbtool.quantization.observed import fake_quantizers
from hbtool.runtime.session import Session


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        return self.dequant(torch.matmul(self.first(x), self.second(x).transpose(2, 3)))


def _dtypes(model: nn.Module) -> dict[str, object]:
    return {
        path.removesuffix(".activation_post_process"): q.dtype
        for path, q in fake_quantizers(model).items()
        if "weight" not in path
    }


def test_templates_apply_in_order() -> None:
    setter = QconfigSetter(
        get_qconfig(observer=HistogramObserver),
        [
            ModuleNameTemplate({"": qint16, "conv1": {"dtype": "qint8", "threshold": 2.0}}, freeze=True),
            ConvDtypeTemplate(qint8, qint8),
            ModuleNameTemplate({"layer0": qint16}),
        ],
    )
    prepared = prepare(Plain(), torch.rand(1, 3, 8, 8), setter)
    assert _dtypes(prepared) == {
        "quant": "qint8", "layer0.0": "qint16", "layer1.conv": "qint16", "layer1.add": "qint8", "layer2.add": "qint8",
        "conv1": "qint8",
    }  # fmt: skip
    assert prepared.conv1.activation_post_process.scale.item() == 2 / 128
    observer = prepared.get_submodule("layer1.add").activation_post_process.activation_post_process
    assert isinstance(observer, HistogramObserver) and observer.averaging_constant == 0


def test_matmul_and_sensitivity_templates() -> None:
    setter = QconfigSetter(get_qconfig(out_dtype=qint16), [MatmulDtypeTemplate((qint8, qint8))])
    found = _dtypes(prepare(Attention(), None, setter))
    assert found["first"] == found["second"] == "qint8" and found["_generated_matmul_0"] == "qint16"
    table = [("second", "activation", 0.3), ("first", "activation", 0.2), ("quant", "weight", 0.1)]
    setter = QconfigSetter(get_qconfig(), [SensitivityTemplate(table, 1, "activation", qint8, qint16)])
    plan = setter.qconfig_dict(importlib.import_module("hbtool.quantization").fuse_fx(Attention()))["module_name"]
    assert {n: q.activation.p.keywords["dtype"] for n, q in plan.items()} == {"second": "qint16", "first": "qint8"}


@pytest.mark.parametrize(
    ("setter", "words"),
    [
        (lambda: QconfigSetter(get_qconfig(), [ModuleNameTemplate({"conv9": qint16})]), "conv9.*nearest"),
        (lambda: QconfigSetter("int8"), "reference_qconfig"),
        (lambda: QconfigSetter(get_qconfig(), [ModuleNameTemplate({"conv1": {"type": 3}})]), "unknown key 'type'"),
        (lambda: 3, "qconfig_setter is a int"),
    ],
)
def test_bad_setters(setter: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prepare(Plain(), None, setter())  # type: ignore[operator]


def test_a_class_that_no_module_is_of_is_told(caplog: pytest.LogCaptureFixture) -> None:
    qconfig = get_default_qat_qconfig()
    with caplog.at_level(logging.WARNING):
        prepare_qat_fx(Plain(), {"": qconfig, "module_type": [(nn.Conv3d, qconfig)]})
    assert "no module is a Conv3d (nearest: Conv2d" in caplog.text
    with pytest.raises(UsageError, match="is not a class"):
        prepare_qat_fx(Plain(), {"": qconfig, "module_type": [("Conv2d", qconfig)]})


def _calibrated(x: Tensor) -> nn.Module:
    prepared = prepare(Plain().eval(), x, get_default_qat_qconfig()).eval()
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    with torch.no_grad():
        prepared(x)
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    return prepared


def test_the_report_and_the_road_to_an_artifact(tmp_path: Path) -> None:
    x = torch.rand(1, 3, 8, 8)
    prepare(Plain().eval(), x, get_default_qat_qconfig(), report_dir=tmp_path)
    assert "qconfigs to look at" in (tmp_path / "model_check_result.txt").read_text()
    assert "layer0_0" in (tmp_path / "fx_graph.txt").read_text()
    exported = hbdk4.export(hbdk4.pre_export(_calibrated(x)), x, name="net", input_names=["image"])
    hbdk4.save(exported, tmp_path / "qat.onnx")
    assert [i.name for i in onnx.load(tmp_path / "qat.onnx").graph.input] == ["image"]
    converted = hbdk4.convert(exported, "bayes")
    hbdk4.save(converted, tmp_path / "integer.onnx")
    assert hbdk4.compile(converted, tmp_path / "net.hbm") == 0
    session = Session(tmp_path / "net.hbm")
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert np.array_equal(got, converted.module(x).numpy())
    with pytest.raises(UsageError, match="was not prepared"):
        hbdk4.export(Plain(), x)
    with pytest.raises(UsageError, match="prepared for bayes"):
        hbdk4.convert(exported, "nash-m")


def test_state_of_another_network_is_refused() -> None:
    x = torch.rand(1, 3, 8, 8)
    calibrated, fresh = _calibrated(x), prepare(Plain(), x, get_default_qat_qconfig())
    load_calib_state_dict(fresh, calibrated.state_dict())
    assert torch.equal(fresh.quant.activation_post_process.scale, calibrated.quant.activation_post_process.scale)
    with pytest.raises(UsageError, match="missing"):
        load_calib_state_dict(prepare(Attention(), None, get_default_qat_qconfig()), calibrated.state_dict())


@pytest.fixture
def level() -> Iterator[None]:
    yield
    ConsistencyStrategy.set_consistency_level(0)


def test_consistency_makes_scales_powers_of_two(level: None) -> None:
    ConsistencyStrategy.set_consistency_level(2)
    prepared = _calibrated(torch.rand(1, 3, 8, 8))
    exponents = torch.cat([torch.log2(q.scale) for q in fake_quantizers(prepared).values()])
    assert torch.equal(exponents, exponents.round())
    with pytest.raises(UsageError, match="level"):
        ConsistencyStrategy.set_consistency_level(3)


def test_reconstruction_brings_the_quantized_model_nearer() -> None:
    torch.manual_seed(2)
    x = [torch.randn(2, 3, 8, 8) for _ in range(3)]
    model = Plain().eval()
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig(weight_dtype="qint4")}).eval()
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    with torch.no_grad():
        for batch in x:
            prepared(batch)
        set_fake_quantize(prepared, FakeQuantState.VALIDATION)
        before = sum(float((prepared(b) - model(b)).square().mean()) for b in x)
    weight_reconstruction(prepared, x, steps=60, lr=1e-2)
    with torch.no_grad():
        after = sum(float((prepared(b) - model(b)).square().mean()) for b in x)
    assert after < before
    with pytest.raises(UsageError, match="calibrated model"):
        weight_reconstruction(model, x)


def test_the_compiler_package_is_reached_through_the_shim() -> None:
    assert compat.install()
    try:
        assert importlib.import_module("hbdk4.compiler").compile is hbdk4.compile
        aliased = importlib.import_module("horizon_plugin_pytorch.quantization.hbdk4")
        assert aliased.export is hbdk4.export
    finally:
        compat.uninstall()
