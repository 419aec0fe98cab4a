"""The CIFAR-10 subset of the folder of real models as data sets: what a YAML for `hbtool qat` names."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from model import ResNet20, load_published
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

FOLDER = Path(os.environ.get("HBTOOL_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "real" / "cifar10"
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def network() -> ResNet20:
    """ResNet-20 with the published weights."""
    return load_published(FOLDER / "resnet20-12fca82f.th")


def images(split: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """(normalized images [N, 3, 32, 32], labels) of `train` or `test`."""
    with np.load(FOLDER / "cifar10_10k_2k.npz") as data:
        raw, offset, labels = data[f"{split}_jpeg"], data[f"{split}_offset"], data[f"{split}_label"]
    count = len(labels) if count is None else count
    files = (raw[offset[i] : offset[i + 1]].tobytes() for i in range(count))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(f)).convert("RGB")) for f in files])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (x - MEAN) / STD, torch.from_numpy(labels[:count].astype(np.int64))


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Flips and shifts by up to four pixels."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = torch.nn.functional.pad(x, (4, 4, 4, 4)), y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        top, left, flip = torch.randint(0, 9, (3,)).tolist()
        x = self.x[index, :, top : top + 32, left : left + 32]
        return (x.flip(2) if flip % 2 else x), self.y[index]


def training() -> Augmented:
    """10,000 training images."""
    return Augmented(*images("train"))


def calibration() -> TensorDataset:
    """512 training images."""
    return TensorDataset(*images("train", 512))


def validation() -> TensorDataset:
    """2,000 test images."""
    return TensorDataset(*images("test"))
