"""Whole roads: real models and the embedded digits through makertbin, and what their artifacts then get right.

Few samples per model, calibration `max` or `mse`; tools/real_models.py measures with all of them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import hbtool.ops  # noqa: F401  # registers the operators
from hbtool.config import load_config
from hbtool.flows.makertbin import makertbin
from hbtool.runtime import Session

CALIBRATION = {"calibration_type": "mse", "optimization": "asymmetric,bias_correction"}


@pytest.fixture(scope="module")
def tools(checkout: Path) -> Iterator[ModuleType]:
    """Return tools/real_models.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout / "tools"))
        spec = importlib.util.spec_from_file_location("real_models", checkout / "tools" / "real_models.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "real_models", module)
        spec.loader.exec_module(module)
        yield module


# name -> calibration samples, least mean cosine of the worst output, samples that are compared
GOLDEN = {
    "mobilenetv2": (8, 0.98, 6),
    "mobilenetv2_rgb": (8, 0.98, 6),
    "resnet20": (16, 0.99, 40),
    "lprnet": (16, 0.99, 20),
    "vit": (16, 0.99, 40),
    "vit_layernorm": (16, 0.99, 40),
    "ocr_cls": (29, 0.98, 30),
    "face": (6, 0.99, 4),
    "face_simplified": (6, 0.99, 4),
    "vad": (40, 0.90, 40),
}


# The same with nothing but `calibration_type: default`; what fell far before the search looked at the outputs.
DEFAULT = {
    "resnet20": (16, 0.997, 40),
    "lprnet": (16, 0.998, 40),
    "vit": (16, 0.998, 40),
    "ocr_cls": (29, 0.98, 30),
}


@pytest.mark.real
@pytest.mark.parametrize("name", GOLDEN)
def test_artifact_follows_the_float_model(name: str, shared_dir: Path, tools: ModuleType, tmp_path: Path) -> None:
    assert least_cosine(name, GOLDEN[name], CALIBRATION, shared_dir, tools, tmp_path) >= GOLDEN[name][1]


@pytest.mark.real
@pytest.mark.parametrize("name", DEFAULT)
def test_default_settings_follow_the_float_model(
    name: str, shared_dir: Path, tools: ModuleType, tmp_path: Path
) -> None:
    settings = {"calibration_type": "default"}
    assert least_cosine(name, DEFAULT[name], settings, shared_dir, tools, tmp_path) >= DEFAULT[name][1]


@pytest.mark.real
def test_kl_is_no_worse_than_max_by_much(shared_dir: Path, tools: ModuleType, tmp_path: Path) -> None:
    """On a ViT, whose images and GELU outputs are mostly alike: 0.88 where the divergence decides alone."""
    found = {}
    for method in ("max", "kl"):
        (tmp_path / method).mkdir()
        settings = {"calibration_type": method}
        found[method] = least_cosine("vit", (16, 0.0, 40), settings, shared_dir, tools, tmp_path / method)
    assert found["kl"] > found["max"] - 0.001


def least_cosine(
    name: str,
    numbers: tuple[int, float, int],
    settings: dict[str, str],
    shared_dir: Path,
    tools: ModuleType,
    tmp_path: Path,
) -> float:
    """The mean cosine of the worst output, artifact against float model."""
    if not (shared_dir / "real").is_dir():
        pytest.skip("the real models are not in the folder beside the checkout")
    calibration, _, compared = numbers
    case = tools.CASES[name](shared_dir / "real", False)
    samples = case.calibration[-compared:]  # none of them calibrates where there are enough
    case = replace(case, calibration=case.calibration[:calibration])
    result = makertbin(load_config(tools.write_config(case, tmp_path, settings, "bayes-e")))
    floats = tools.onnxruntime.InferenceSession(str(case.model), providers=["CPUExecutionProvider"])
    artifact = Session(result.artifact_path)
    feed = tools.pixels(case) if case.picture else (lambda feeds: feeds)
    pairs = [(floats.run(None, s), artifact.run(None, feed(s))) for s in samples]
    found = np.mean([[tools.similarity(a, b).cosine for a, b in zip(x, y, strict=True)] for x, y in pairs], axis=0)
    return float(found.min())


def test_digits(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model keeps its accuracy, and its host runtime and simulator agree to the bit."""
    folder = checkout / "samples" / "digits"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("digits_make_data", folder / "make_data.py")
    assert spec is not None and spec.loader is not None
    make_data = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, make_data)
    spec.loader.exec_module(make_data)
    monkeypatch.setattr(make_data, "HERE", tmp_path)
    make_data.main()
    text = (checkout / "configs" / "digits.yaml").read_text()
    text = text.replace("../samples/digits/digits.onnx", str(folder / "digits.onnx"))
    text = text.replace("../samples/digits/data", str(tmp_path / "data")).replace("../model_output", "out")
    config = tmp_path / "digits.yaml"
    config.write_text(text)
    result = makertbin(load_config(config))
    session, simulator = Session(result.artifact_path), Session(result.artifact_path, backend="sim")
    split = make_data.load_split()
    name = session.get_inputs()[0].name
    # (the camera's bytes are what the float model sees before mean and scale)
    images = np.rint(split.test_images).astype(np.uint8)
    scores = [session.run(None, {name: image[None]})[0] for image in images]
    right = np.mean([int(s.argmax()) == label for s, label in zip(scores, split.test_labels, strict=True)])
    assert right > 0.97
    for image, score in zip(images[:3], scores, strict=False):
        np.testing.assert_array_equal(simulator.run(None, {name: image[None]})[0], score)
