"""Writes MobileNetV2 of shared/real with a planted fault, ready for `hbtool debug` and `hbtool tune`.

    python tools/planted_mobilenet.py FOLDER              one channel a hundred times too wide, calibration_type max
    python tools/planted_mobilenet.py FOLDER --factor 1   the sound network

One channel behind PLANTED is FACTOR times as wide, and the convolution that reads it divides again: the float model is
the same, int8 with one scale per tensor is ruined. FOLDER holds net.onnx, data/ (images that calibrate), others.npz
(the images that do not), config.yaml, and metric.py with the function top_1 over others.npz. The transcript in
docs/tutorials/debugging_accuracy.md is made of these lines, typed in FOLDER:

    hbtool lint config.yaml
    hbtool debug sensitivity config.yaml
    hbtool tune config.yaml --metric metric.py:top_1 --max-drop 0.5
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from real_pictures import rgb

ROOT = Path(__file__).resolve().parents[1]
PLANTED, READER, CHANNEL, FACTOR = "/n/op3/Conv", "/n/op4/Conv", 5, 100.0
CALIBRATION = 20

CONFIG = """\
model_parameters: {onnx_model: net.onnx, march: bayes-e, working_dir: out}
input_parameters: {input_type_rt: rgb, input_layout_rt: NCHW, input_type_train: rgb, input_layout_train: NCHW,
  norm_type: data_mean_and_scale, mean_value: 127.5, scale_value: 0.00784313725}
calibration_parameters: {cal_data_dir: data, cal_data_type: uint8, calibration_type: max}
"""

METRIC = '''\
"""Top-1 in percent over the images that do not calibrate."""

from pathlib import Path

import numpy as np

OTHERS = np.load(Path(__file__).with_name("others.npz"))
IMAGES, CLASSES = OTHERS["images"], OTHERS["classes"]


def top_1(session):
    (x,) = session.get_inputs()
    found = [session.run(None, {x.name: image[None]})[0].argmax() for image in IMAGES]
    return 100 * float(np.mean(found == CLASSES))
'''


def pictures(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Centre crops uint8 [N, 3, 224, 224] and their classes [N], in the order of labels.csv."""
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    crops = []
    for row in rows:
        image = rgb(folder / "images" / row["file"])
        top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
        crops.append(image[top : top + 224, left : left + 224].transpose(2, 0, 1))
    return np.stack(crops), np.array([int(row["class_index"]) for row in rows])


def widened(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The model with channel CHANNEL of PLANTED `factor` times as wide; READER takes it back."""
    constants = {t.name: t for t in model.graph.initializer}
    nodes = {n.name: n for n in model.graph.node}
    writing = [(name, np.s_[CHANNEL], factor) for name in nodes[PLANTED].input[1:]]
    for name, index, times in (*writing, (nodes[READER].input[1], np.s_[:, CHANNEL], 1 / factor)):
        array = numpy_helper.to_array(constants[name]).copy()
        array[index] *= times
        constants[name].CopyFrom(numpy_helper.from_array(array, name))
    return model


def write_project(folder: Path, imagenet: Path, factor: float = FACTOR) -> Path:
    """Write everything into `folder`; returns config.yaml."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    onnx.save(widened(onnx.load(imagenet / "mobilenetv2_1.0_224.onnx"), factor), folder / "net.onnx")
    images, classes = pictures(imagenet)
    for number, image in enumerate(images[:CALIBRATION]):
        image[None].tofile(folder / "data" / f"{number:03}.bin")
    np.savez(folder / "others.npz", images=images[CALIBRATION:], classes=classes[CALIBRATION:])
    (folder / "metric.py").write_text(METRIC)
    (folder / "config.yaml").write_text(CONFIG)
    return folder / "config.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--factor", type=float, default=FACTOR)
    options = parser.parse_args()
    root = Path(os.environ.get("HBTOOL_SHARED") or ROOT.parent / "shared") / "real" / "imagenet"
    if not root.is_dir():
        raise SystemExit(f"{root} does not exist: the pictures of the folder of real models are needed")
    print(write_project(options.folder, root, options.factor))


if __name__ == "__main__":
    main()
