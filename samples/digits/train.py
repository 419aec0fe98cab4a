"""Train the digits network and export it as `digits.onnx` beside this file (under a minute on two cores).

The network holds one of each thing a compiler for an integer accelerator must handle: convolution with batch norm, a
depthwise convolution, a residual addition, max and average pooling, SiLU (Sigmoid and Mul in ONNX) and a linear head.
"""

from __future__ import annotations

import logging
import time
import warnings

import numpy as np
import onnx
import torch
from make_data import HERE, SIDE, load_split
from normalization import MEAN, SCALE
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 7
EPOCHS = 14
BATCH = 64
PEAK_LEARNING_RATE = 4e-3
OPSET = 18


def conv(inputs: int, outputs: int, kernel: int, *, groups: int = 1) -> nn.Sequential:
    """Return a convolution that keeps height and width, with its batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels, 3)
        self.second = conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class Digits(nn.Module):
    """Input float32 (n, 1, 32, 32), normalized; output float32 (n, 10), one logit per digit."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(conv(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(conv(16, 16, 3, groups=16), nn.ReLU(), conv(16, 32, 1), nn.ReLU()),
            *(Residual(32), nn.AvgPool2d(2)),
            *(conv(32, 64, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image))


def normalized(images: np.ndarray) -> Tensor:
    return (torch.from_numpy(images).float() - MEAN) * SCALE


def shifted(images: Tensor, random: torch.Generator) -> Tensor:
    """Move a batch by up to two pixels, so that the network does not learn where a digit stands."""
    rows, columns = torch.randint(-2, 3, (2,), generator=random).tolist()
    return torch.roll(images, (rows, columns), (2, 3))


def train(model: Digits, images: Tensor, labels: Tensor) -> None:
    random = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=1e-2)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    model.train()
    for _ in range(EPOCHS):
        # The last, smaller batch is dropped: the order is new in every epoch, so no image is left out for good.
        for rows in torch.randperm(len(images), generator=random)[: steps // EPOCHS * BATCH].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(shifted(images[rows], random)), labels[rows], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def export(model: Digits) -> int:
    """Write `digits.onnx` with batch 1 and return its size in bytes."""
    example = torch.zeros(1, 1, SIDE, SIDE)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # torch's exporter warns about its own internals; none of it concerns this network.
        warnings.simplefilter("ignore")
        names = {"input_names": ["image"], "output_names": ["logits"]}
        program = torch.onnx.export(model, (example,), dynamo=True, opset_version=OPSET, verbose=False, **names)
    proto = program.model_proto
    # The exporter notes the source line of every node with this machine's paths; they do not belong in the file.
    for holder in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    path = HERE / "digits.onnx"
    onnx.save(proto, path)
    return path.stat().st_size


def main() -> None:
    start = time.perf_counter()
    torch.manual_seed(SEED)
    # Sums are split by thread: another number of threads gives other last bits, and in the end another file.
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    split = load_split()
    model = Digits()
    train(model, normalized(split.train_images), torch.from_numpy(split.train_labels))
    with torch.no_grad():
        guess = model(normalized(split.test_images)).argmax(1).numpy()
    accuracy = float(np.mean(guess == split.test_labels))
    print(f"test accuracy {accuracy:.2%} after {EPOCHS} epochs, {time.perf_counter() - start:.0f} s")
    print(f"samples/digits/digits.onnx: {export(model)} bytes")


if __name__ == "__main__":
    main()
