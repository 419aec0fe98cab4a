"""A small network with data in a folder of its own, as a user's project for the torch commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hbtool import march

NETWORK = """
import torch
from torch import nn
from torch.ao.quantization import DeQuantStub, QuantStub
from torch.utils.data import Dataset, TensorDataset


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(4 * width, 4)

    def forward(self, x):
        x = self.first(self.quant(x))
        x = self.pool(torch.relu(self.second(x) + x)).flatten(1)
        return self.dequant(self.head(x))


def net(width=8):
    torch.manual_seed(3)
    return Net(width)


def images(count, seed):
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=random)
    x = torch.randn(count, 1, 8, 8, generator=random) * 0.5
    for i, label in enumerate(labels.tolist()):
        x[i, 0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 1.5
    return x, labels


class Noisy(Dataset):
    def __init__(self, count):
        self.x, self.y = images(count, 1)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + 0.01 * torch.randn(1, 8, 8), self.y[index]


def training():
    return Noisy(64)


def validation():
    return TensorDataset(*images(48, 2))


def calibration():
    return TensorDataset(images(32, 4)[0])


class Poisoned(Noisy):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x * float("nan"), y


def poisoned():
    return Poisoned(64)


def slow():
    import time

    class Slow(Noisy):
        def __getitem__(self, index):
            time.sleep(0.02)
            return super().__getitem__(index)

    return Slow(64)
"""

CONFIG = """
model_parameters:
  model: network.py:net
  march: bayes-e
  input_shape: 1x1x8x8
  output_model_file_prefix: small
  working_dir: out
data_parameters:
  calibration: network.py:calibration
  training: network.py:training
  validation: network.py:validation
  batch_size: 16
quantization_parameters:
  observer: min_max
  output_layers: head
training_parameters:
  epochs: 3
  learning_rate: 0.05
  device: cpu
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with network.py and training.yaml."""
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "training.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(autouse=True)
def march_as_it_was() -> Iterator[None]:
    """The process-wide march survives no test."""
    before = march._current
    yield
    march._current = before
