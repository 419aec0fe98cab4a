"""lint on real images: silent about every correct calibration set, and one remark for each planted mistake."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hbtool.cli.main import cli

SAMPLES = 8
MORE_SAMPLES = 16
HALF = ("127.5", "127.5")
IMAGENET = ("123.675 116.28 103.53", "58.395 57.12 57.375")
Pixels = list[np.ndarray]

NORMALIZATION: dict[str, tuple[str, str, str]] = {
    "mobilenetv2": ("rgb", *HALF),
    "squeezenet": ("rgb", *IMAGENET),
    "resnet20": ("rgb", *IMAGENET),
    "vit": ("gray", "33.3285", "78.5655"),
    "vit_layernorm": ("gray", "33.3285", "78.5655"),
    "lprnet": ("bgr", "127.5", "128"),
    "nanodet": ("bgr", "103.53 116.28 123.675", "57.375 57.12 58.395"),
    "face": ("rgb", "127", "128"),
    "face_simplified": ("rgb", "127", "128"),
    "ocr_cls": ("bgr", *HALF),
    "ocr_det": ("bgr", *IMAGENET),
}
"""Colour type, mean and standard deviation that each model was trained with."""


def numbers(text: str) -> np.ndarray:
    return np.array([float(n) for n in text.split()]).reshape(1, -1, 1, 1)


def project(folder: Path, model: Path, name: str, data: Pixels, kind: str, mean: str, std: str, **changes: str) -> Path:
    """Raw files of `data` and a configuration; `changes` replace keys of it."""
    shape = changes.pop("shape", "x".join(map(str, data[0].shape)))
    place = folder / changes.pop("place", "data")
    place.mkdir()
    for index, array in enumerate(data):
        array.tofile(place / f"{index:03}.bin")
    scale = " ".join(f"{1 / float(s):.9g}" for s in std.split())
    inputs = {
        "input_name": name, "input_shape": shape, "input_type_rt": kind, "input_layout_rt": "NCHW",
        "input_type_train": kind, "input_layout_train": "NCHW", "norm_type": "data_mean_and_scale",
        "mean_value": mean, "scale_value": scale,
    }  # fmt: skip
    calibration = {"cal_data_dir": str(place), "cal_data_type": data[0].dtype.name, "calibration_type": "max"}
    for key, value in changes.items():
        (calibration if key in calibration else inputs)[key] = value
    lines = ["model_parameters:", f"  onnx_model: {model}", "  march: bayes-e", "input_parameters:"]
    lines += [f"  {k}: {v}" for k, v in inputs.items() if v]
    lines += ["calibration_parameters:", *(f"  {k}: {v}" for k, v in calibration.items())]
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    return folder / "config.yaml"


def warnings(config: Path, samples: int = SAMPLES) -> set[str]:
    """The checks that found something; lint's exit code says the same."""
    done = CliRunner().invoke(cli, ["lint", str(config), "-n", str(samples), "--json", "-q"], standalone_mode=False)
    assert done.exception is None, done.output
    found = {r["check"] for r in json.loads(done.stdout)["remarks"] if r["level"] == "warning"}
    assert done.return_value == (1 if found else 0)
    return found


@pytest.fixture(scope="module")
def cases(checkout: Path, shared_dir: Path) -> Iterator[Callable[[str], Any]]:
    """Return a function: name -> its entry of tools/real_cases.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout / "tools"))
        import real_cases

        yield lambda name: real_cases.CASES[name](shared_dir / "real", False)
        for module in ("real_cases", "real_pictures"):
            sys.modules.pop(module, None)


def pixels(case: Any, mean: str, std: str, count: int = SAMPLES) -> tuple[str, Pixels]:
    """The input's name, and the calibration images as uint8 in the order of the model's channels."""
    (name,) = case.calibration[0]
    samples = [s[name] * numbers(std) + numbers(mean) for s in case.calibration[:count]]
    return name, [np.rint(np.clip(s, 0, 255)).astype(np.uint8) for s in samples]


@pytest.mark.real
@pytest.mark.parametrize("name", NORMALIZATION)
def test_correct_images_raise_no_suspicion(name: str, cases: Callable[[str], Any], tmp_path: Path) -> None:
    case, (kind, mean, std) = cases(name), NORMALIZATION[name]
    entry, data = pixels(case, mean, std)
    assert warnings(project(tmp_path, case.model, entry, data, kind, mean, std)) == set()


@pytest.mark.real
@pytest.mark.parametrize("name", ["mobilenetv2", "nanodet", "ocr_det", "vad"])
def test_correct_feature_maps_raise_no_suspicion(name: str, cases: Callable[[str], Any], tmp_path: Path) -> None:
    case = cases(name)
    names = list(case.calibration[0])
    folders = [tmp_path / f"{n}_f32" for n in names]
    for entry, folder in zip(names, folders, strict=True):
        folder.mkdir()
        for index, sample in enumerate(case.calibration[:SAMPLES]):
            np.save(folder / f"{index}.npy", sample[entry])
    shapes = ";".join("x".join(map(str, case.calibration[0][n].shape)) for n in names)
    text = f"""
model_parameters: {{onnx_model: {case.model}, march: bayes-e}}
input_parameters: {{input_name: "{";".join(names)}", input_shape: "{shapes}",
  input_type_rt: "{";".join(["featuremap"] * len(names))}", input_type_train: "{";".join(["featuremap"] * len(names))}",
  input_layout_train: "{";".join(["NCHW"] * len(names))}", norm_type: "{";".join(["no_preprocess"] * len(names))}"}}
calibration_parameters: {{cal_data_dir: "{";".join(map(str, folders))}",
  cal_data_type: "{";".join(["float32"] * len(names))}", calibration_type: max}}
"""
    (tmp_path / "config.yaml").write_text(text)
    assert warnings(tmp_path / "config.yaml") == set()


def scaled(data: Pixels, mean: str, std: str) -> Pixels:
    return [((a - numbers(mean)) / numbers(std)).astype(np.float32) for a in data]


def spoiled(data: Pixels, value: float, dtype: type) -> Pixels:
    return [np.full(data[0].shape, value, dtype), *(a.astype(dtype) for a in data[1:])]


Mistake = Callable[[Pixels, str, str], tuple[Pixels, dict[str, str]]]
NONE = {"mean_value": "", "scale_value": "", "norm_type": "no_preprocess"}
FLOATS = {"place": "data_f32"}
MISTAKES: dict[str, tuple[str, Mistake]] = {
    "normalized in the files and once more": ("value range", lambda d, m, s: (scaled(d, m, s), FLOATS)),
    "0..1 instead of 0..255": ("value range", lambda d, m, s: ([(a / 255).astype(np.float32) for a in d], FLOATS)),
    "scaled twice in the configuration": (
        "scale", lambda d, m, s: (d, {"scale_value": " ".join(f"{1 / float(x) ** 2:.9g}" for x in s.split())})),
    "mean and scale forgotten": ("scale", lambda d, m, s: (d, NONE)),
    "mean for 0..1": (
        "scale", lambda d, m, s: (d, {"mean_value": " ".join(f"{float(x) / 255:.4g}" for x in m.split())})),
    "deviations as factors": ("scale", lambda d, m, s: (d, {"scale_value": s})),
    "constant image": ("constant", lambda d, m, s: (spoiled(d, 0, np.uint8), {})),
    "the same image twice": ("duplicate", lambda d, m, s: ([d[0], *d], {})),
    "NaN": ("unreadable", lambda d, m, s: (spoiled(d, float("nan"), np.float32), FLOATS)),
    "the folder says float32": ("data type", lambda d, m, s: (d, FLOATS)),
    "dtype of the files": ("unreadable", lambda d, m, s: (d, {"cal_data_type": "float32", **FLOATS})),
}  # fmt: skip
"""What is done wrong, and the check that must find it."""
OF_PREPROCESSING = {"value range", "scale", "layout", "colour order"}
"""A broken preprocessing may show in more than one way; what is wrong with single files shows in one."""


def check_mistake(mistake: str, folder: Path, model: Path, name: str, data: Pixels, norm: tuple[str, str, str]) -> None:
    expected, plant = MISTAKES[mistake]
    kind, mean, std = norm
    files, changes = plant(data, mean, std)
    found = warnings(project(folder, model, name, files, kind, mean, std, **changes))
    assert expected in found
    assert found <= (OF_PREPROCESSING if expected in OF_PREPROCESSING else {expected})


@pytest.mark.real
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_on_imagenet_pictures(mistake: str, cases: Callable[[str], Any], tmp_path: Path) -> None:
    case, norm = cases("squeezenet"), NORMALIZATION["squeezenet"]
    entry, data = pixels(case, *norm[1:], count=3)
    check_mistake(mistake, tmp_path, case.model, entry, data, norm)


@pytest.mark.real
@pytest.mark.parametrize("name", ["squeezenet", "nanodet"])
def test_channels_last_read_as_channels_first(name: str, cases: Callable[[str], Any], tmp_path: Path) -> None:
    case, (kind, mean, std) = cases(name), NORMALIZATION[name]
    entry, data = pixels(case, mean, std)
    last = [np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in data]
    shape = "x".join(map(str, data[0].shape))
    assert "layout" in warnings(project(tmp_path, case.model, entry, last, kind, mean, std, shape=shape))


@pytest.mark.real
@pytest.mark.parametrize("name", ["mobilenetv2", "squeezenet"])
def test_exchanged_colours(name: str, cases: Callable[[str], Any], tmp_path: Path) -> None:
    case, (kind, mean, std) = cases(name), NORMALIZATION[name]
    entry, data = pixels(case, mean, std, MORE_SAMPLES)
    exchanged = [np.ascontiguousarray(a[:, ::-1]) for a in data]
    config = project(tmp_path, case.model, entry, exchanged, kind, mean, std)
    assert warnings(config, MORE_SAMPLES) == {"colour order"}


@pytest.fixture(scope="module")
def digits(checkout: Path) -> Pixels:
    """Return images of the embedded sample, uint8 [1, 1, 32, 32] each."""
    split = runpy.run_path(str(checkout / "samples" / "digits" / "make_data.py"))["load_split"]()
    return [image[None] for image in split.train_images[:SAMPLES]]


DIGITS = ("gray", "77.8", "82.6446")


def test_the_digits_raise_no_suspicion(digits: Pixels, checkout: Path, tmp_path: Path) -> None:
    model = checkout / "samples" / "digits" / "digits.onnx"
    assert warnings(project(tmp_path, model, "image", digits, *DIGITS)) == set()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_on_the_digits(mistake: str, digits: Pixels, checkout: Path, tmp_path: Path) -> None:
    check_mistake(mistake, tmp_path, checkout / "samples" / "digits" / "digits.onnx", "image", digits, DIGITS)
