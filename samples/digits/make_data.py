"""Write the calibration and test images of the digits sample into `data/` beside this file (no torch needed).

    data/calibration_f32/000.bin ...   100 training images, raw float32, 1x1x32x32, 0..255, one file each
    data/test.npz                      images: uint8 (500, 1, 32, 32), 0..255; labels: int64 (500,)

The images are scikit-learn's bundled handwritten digits (8x8, 16 grey levels), enlarged to 32x32. Mean and scale are
not applied: they stand in `configs/digits.yaml` and become a node of the compiled model.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
SIDE = 32
TEST_COUNT = 500
CALIBRATION_COUNT = 100
SEED = 20


class Split(NamedTuple):
    """Images uint8 (n, 1, 32, 32), labels int64 (n,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_split() -> Split:
    """Return the digits in a fixed order, the last `TEST_COUNT` of which nobody trains or calibrates on."""
    digits = load_digits()
    small = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)
    size = (SIDE, SIDE)
    images = np.stack([np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BILINEAR)) for i in small])
    order = np.random.default_rng(SEED).permutation(len(images))
    images, labels = images[order, None], digits.target[order].astype(np.int64)
    return Split(images[:-TEST_COUNT], labels[:-TEST_COUNT], images[-TEST_COUNT:], labels[-TEST_COUNT:])


def main() -> None:
    split = load_split()
    data = HERE / "data"
    calibration = data / "calibration_f32"
    # The mapper reads every file of the folder as a sample, so none may be left over from an earlier run.
    shutil.rmtree(calibration, ignore_errors=True)
    calibration.mkdir(parents=True)
    for index, image in enumerate(split.train_images[:CALIBRATION_COUNT]):
        image.astype(np.float32).tofile(calibration / f"{index:03d}.bin")
    np.savez(data / "test.npz", images=split.test_images, labels=split.test_labels)
    print(f"{CALIBRATION_COUNT} calibration images and {TEST_COUNT} test images written to samples/digits/data")


if __name__ == "__main__":
    main()
