"""MobileNetV2 with published tensors and 300 ImageNet pictures of the folder of real models: what a YAML names."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import torch
from networks import MobileNetV2, mobilenet_v2
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

FOLDER = Path(os.environ.get("HBTOOL_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "real" / "imagenet"
SIDE = 224


def network() -> MobileNetV2:
    """MobileNetV2 with the tensors of the ONNX file."""
    return mobilenet_v2(FOLDER / "mobilenetv2_1.0_224.onnx")


class Pictures(Dataset[tuple[Tensor, int]]):
    """Centre crops, RGB, x / 127.5 - 1, float32 [3, 224, 224], with their class."""

    def __init__(self, thirds: tuple[int, ...]) -> None:
        with (FOLDER / "labels.csv").open() as stream:
            rows = [(row["file"], int(row["class_index"])) for row in csv.DictReader(stream)]
        self.rows = [row for i, row in enumerate(rows) if i % 3 in thirds]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        name, label = self.rows[index]
        with Image.open(FOLDER / "images" / name) as picture:
            left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
            crop = picture.convert("RGB").crop((left, top, left + SIDE, top + SIDE))
        pixels = torch.from_numpy(np.array(crop, np.float32)).permute(2, 0, 1)
        return pixels / 127.5 - 1, label


def calibration() -> Pictures:
    """Every third picture, 100 of them."""
    return Pictures((0,))


def validation() -> Pictures:
    """The other 200."""
    return Pictures((1, 2))
