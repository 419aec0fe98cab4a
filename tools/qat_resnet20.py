"""Calibration against QAT on ResNet-20, at the usual setting and at harder ones; writes docs/qat.md.

    python tools/qat_resnet20.py [--epochs 1] [--threads 2]

Needs the folder of real models (HBTOOL_SHARED, or `shared` beside the checkout).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from hbtool.config.training_loader import LoadedTraining, load_training_config
from hbtool.flows.qat import qat
from hbtool.flows.training_results import StageResult

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "int8 weights per channel": {},
    "4-bit weights per channel": {"weight_bits": 4},
    "4-bit weights per tensor": {"weight_bits": 4, "weight_per_channel": False},
}
"""Label -> what differs in quantization_parameters."""

_HEAD = """# What QAT gains on ResNet-20

*Written by `tools/qat_resnet20.py`; do not edit.*

ResNet-20 with published weights, {train} training images, top-1 in percent on {test} test images of CIFAR-10 (stored as
JPEG). Calibration: mse, 500 images. QAT: {epochs} epoch(s), SGD, batch 100, learning rate {rate:g} with a cosine,
activation scales as calibrated. The fixed-point column is the integer model that is compiled.

| setting | float | calibrated | QAT | fixed point | fixed point - float | fixed point - calibrated | minutes |
|---|---|---|---|---|---|---|---|
"""


def configured(folder: Path, changes: dict[str, object], epochs: int, rate: float) -> LoadedTraining:
    """The sample's YAML with changes, writing into `folder`."""
    loaded = load_training_config(ROOT / "samples" / "cifar_resnet20" / "qat.yaml")
    given = loaded.config
    config = given.model_copy(
        update={
            "model_parameters": given.model_parameters.model_copy(update={"working_dir": str(folder)}),
            "quantization_parameters": given.quantization_parameters.model_copy(update=changes),
            "training_parameters": given.training_parameters.model_copy(
                update={"epochs": epochs, "learning_rate": rate}
            ),
        }
    )
    return LoadedTraining(config, loaded.file, loaded.folder, loaded.places)


def row(label: str, result: StageResult, minutes: float) -> str:
    """One line of the table."""
    values = [result.metrics[k] for k in ("float", "calibrated", "QAT", "fixed point")]
    assert all(v is not None for v in values)
    f, c, q, x = (float(v) for v in values if v is not None)
    return f"| {label} | {f:.2f} | {c:.2f} | {q:.2f} | {x:.2f} | {x - f:+.2f} | {x - c:+.2f} | {minutes:.1f} |\n"


class _Prints:
    def info(self, message: str) -> None:
        print(message, flush=True)

    warn = info

    def progress(self, label: str, total: int):
        from hbtool.flows.talk import Quiet

        return Quiet().progress(label, total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.002)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    text = _HEAD.format(train="10,000", test="2,000", epochs=given.epochs, rate=given.rate)
    for label, changes in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            since = time.perf_counter()
            result = qat(configured(Path(folder), changes, given.epochs, given.rate), _Prints())
            assert result is not None
            line = row(label, result, (time.perf_counter() - since) / 60)
        print(line, flush=True)
        text += line
        (ROOT / "docs" / "qat.md").write_text(text)


if __name__ == "__main__":
    main()
