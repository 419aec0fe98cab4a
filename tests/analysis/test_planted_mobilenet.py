"""MobileNetV2 with one channel a hundred times too wide: debug names the layer, tune brings the accuracy back."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from hbtool.analysis.sensitivity import SensitivityRequest, sensitivity
from hbtool.config import parse_config
from hbtool.config.schema import LoadedConfig
from hbtool.flows.debug import analyse
from hbtool.flows.tune import TuneTarget, tune

pytestmark = [pytest.mark.real, pytest.mark.slow]
PLANTED, READER, CHANNEL, FACTOR = "/n/op3/Conv", "/n/op4/Conv", 5, 100.0
CALIBRATION = 20


def pictures(folder: Path) -> list[tuple[np.ndarray, int]]:
    """Centre crops [1, 3, 224, 224], uint8, with their classes."""
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    found = []
    for row in rows:
        with Image.open(folder / "images" / row["file"]) as picture:
            left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
            crop = np.asarray(picture.convert("RGB").crop((left, top, left + 224, top + 224)), np.uint8)
        found.append((np.ascontiguousarray(crop.transpose(2, 0, 1)[None]), int(row["class_index"])))
    return found


@pytest.fixture(scope="module")
def labelled(shared_dir: Path) -> list[tuple[np.ndarray, int]]:
    folder = shared_dir / "real" / "imagenet"
    if not folder.is_dir():
        pytest.skip("the ImageNet pictures are not in the folder of real models")
    return pictures(folder)


@pytest.fixture
def planted(tmp_path: Path, shared_dir: Path, labelled: list[tuple[np.ndarray, int]]) -> LoadedConfig:
    model = onnx.load(shared_dir / "real" / "imagenet" / "mobilenetv2_1.0_224.onnx")
    constants = {t.name: t for t in model.graph.initializer}
    nodes = {n.name: n for n in model.graph.node}

    def scale(name: str, index: Any, factor: float) -> None:
        array = numpy_helper.to_array(constants[name]).copy()
        array[index] *= factor
        constants[name].CopyFrom(numpy_helper.from_array(array, name))

    for name in nodes[PLANTED].input[1:]:
        scale(name, CHANNEL, FACTOR)
    scale(nodes[READER].input[1], (slice(None), CHANNEL), 1 / FACTOR)
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "data").mkdir()
    for number, (image, _) in enumerate(labelled[:CALIBRATION]):
        image.tofile(tmp_path / "data" / f"{number:03}.bin")
    text = """
model_parameters: {onnx_model: net.onnx, march: bayes-e, working_dir: out}
input_parameters: {input_type_rt: rgb, input_layout_rt: NCHW, input_type_train: rgb, input_layout_train: NCHW,
  norm_type: data_mean_and_scale, mean_value: 127.5, scale_value: 0.00784313725}
calibration_parameters: {cal_data_dir: data, cal_data_type: uint8, calibration_type: max}
"""
    return parse_config(text, file=str(tmp_path / "config.yaml"), folder=tmp_path)


def test_debug_names_the_planted_layer_first(planted: LoadedConfig) -> None:
    rows = sensitivity(analyse(planted).subject, SensitivityRequest(samples=4))
    assert len(rows) > 50
    assert rows[0].node == PLANTED
    assert rows[0].measures.cosine < 0.5 < rows[1].measures.cosine


def test_tune_restores_top_1(planted: LoadedConfig, labelled: list[tuple[np.ndarray, int]]) -> None:
    def top_1(session: Any) -> float:
        (x,) = session.get_inputs()
        right = [session.run(None, {x.name: image})[0].argmax() == label for image, label in labelled]
        return 100 * float(np.mean(right))

    result = tune(planted, TuneTarget(metric=top_1, max_drop=0.5))
    assert result.float_metric is not None and result.base.metric is not None and result.chosen.metric is not None
    assert result.base.metric < result.float_metric - 20
    assert result.chosen.reached and result.chosen.metric >= result.float_metric - 0.5
    assert set(result.prices_us) == {c.label for c in result.chosen.changes}
