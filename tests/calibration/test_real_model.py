"""MobileNetV2 on a few photographs: ranges that keep the network's decisions, in a bounded time."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from hbtool.calibration.observe import Statistics, Wanted, observe
from hbtool.calibration.ranges import Method, ranges_of
from hbtool.ir.graph import consumers

pytestmark = pytest.mark.real
IMAGES = 6


@pytest.fixture(scope="module")
def model(shared_dir: Path) -> ir.Model:
    path = shared_dir / "real" / "imagenet" / "mobilenetv2_1.0_224.onnx"
    if not path.is_file():
        pytest.skip("MobileNetV2 is not in the folder of real models")
    return ir.load(path)


@pytest.fixture(scope="module")
def samples(shared_dir: Path, model: ir.Model) -> list[dict[str, np.ndarray]]:
    folder = shared_dir / "real" / "imagenet"
    with (folder / "labels.csv").open() as stream:
        names = [row["file"] for row in csv.DictReader(stream)][:IMAGES]
    return [{str(model.graph.inputs[0].name): preprocessed(folder / "images" / name)} for name in names]


def preprocessed(path: Path) -> np.ndarray:
    """Centre crop 224x224, x/127.5 - 1, NCHW."""
    with Image.open(path) as picture:
        left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
        crop = picture.convert("RGB").crop((left, top, left + 224, top + 224))
    return (np.asarray(crop, np.float32) / 127.5 - 1).transpose(2, 0, 1)[None].copy()


def calibrated_values(model: ir.Model) -> list[str]:
    """The inputs of convolutions and additions."""
    used = [v for n in model.graph if n.op_type in ("Conv", "Add") for v in n.inputs]
    return list(dict.fromkeys(str(v.name) for v in used if v is not None and v.const_value is None))


@pytest.fixture(scope="module")
def statistics(model: ir.Model, samples: list[dict[str, np.ndarray]]) -> dict[str, Statistics]:
    return observe(model, calibrated_values(model), samples, Wanted(histogram=True))


def test_activations_behind_relu6_span_0_to_6(model: ir.Model, statistics: dict[str, Statistics]) -> None:
    clipped = [str(n.outputs[0].name) for n in model.graph if n.op_type == "Clip" and consumers(n.outputs[0])]
    seen = [statistics[name] for name in clipped if name in statistics]
    assert len(seen) > 30
    assert all(s.low >= 0 and 0 < s.high <= 6 for s in seen)
    assert max(s.high for s in seen) == 6


@pytest.mark.parametrize("name", ["percentile", "kl", "mse"])
def test_methods_stay_near_the_extremes(statistics: dict[str, Statistics], name: str) -> None:
    largest = ranges_of(statistics, Method("max"))
    found = ranges_of(statistics, Method(name))  # type: ignore[arg-type]
    ratios = np.array([found[value].threshold / largest[value].threshold for value in largest])
    assert (ratios <= 1).all()
    assert np.median(ratios) > 0.5


def test_a_selection_gives_the_thresholds_of_all_elements(
    model: ir.Model, samples: list[dict[str, np.ndarray]], statistics: dict[str, Statistics]
) -> None:
    """A few per mille of the large tensors and all of them: medians of the thresholds agree within 2 %."""
    few = observe(model, list(statistics), samples, Wanted(histogram=True, elements=1))
    for method in (Method("percentile", percentile=0.999), Method("mse")):
        complete, selected = ranges_of(statistics, method), ranges_of(few, method)
        ratios = [selected[v].threshold / complete[v].threshold for v in statistics]
        assert np.median(ratios) == pytest.approx(1, abs=0.02)
        assert min(ratios) > 0.7
