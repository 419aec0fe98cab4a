"""The digits network with quantization stubs, and its data: what `qat.yaml` names."""

from __future__ import annotations

import numpy as np
import torch
from make_data import load_split
from normalization import MEAN, SCALE
from torch import Tensor, nn
from torch.ao.quantization import DeQuantStub, QuantStub
from torch.utils.data import Dataset, TensorDataset
from train import Digits


class QatDigits(nn.Module):
    """`Digits` between stubs; float32 (n, 1, 32, 32), normalized, in; float32 (n, 10) out."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        network = Digits()
        self.body, self.head = network.body, network.head

    def forward(self, image: Tensor) -> Tensor:
        return self.dequant(self.head(self.body(self.quant(image))))


class Shifted(Dataset[tuple[Tensor, Tensor]]):
    """Training digits, each moved by up to two pixels."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rows, columns = torch.randint(-2, 3, (2,)).tolist()
        return torch.roll(self.images[index], (rows, columns), (1, 2)), self.labels[index]


def _normalized(images: np.ndarray) -> Tensor:
    return (torch.from_numpy(images).float() - MEAN) * SCALE


def calibration() -> TensorDataset:
    """256 training digits."""
    split = load_split()
    return TensorDataset(_normalized(split.train_images[:256]), torch.from_numpy(split.train_labels[:256]))


def training() -> Shifted:
    """All training digits, augmented."""
    split = load_split()
    return Shifted(_normalized(split.train_images), torch.from_numpy(split.train_labels))


def validation() -> TensorDataset:
    """The 500 test digits."""
    split = load_split()
    return TensorDataset(_normalized(split.test_images), torch.from_numpy(split.test_labels))
