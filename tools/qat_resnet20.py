"""Calibration against QAT on ResNet-20, at the usual setting and at harder ones; writes docs/qat.md.

    python tools/qat_resnet20.py [--epochs 1] [--threads 2]

The published weights were trained on other pixels than the images here (these were stored as JPEG), so any training on
them gains accuracy. The first row is therefore the same network, data and schedule without fake quantizers.

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
from hbtool.flows.talk import Quiet, Talk
from hbtool.flows.training_optimizer import learning_rate, make_optimizer
from hbtool.flows.training_results import StageResult
from hbtool.flows.training_setup import build_loader, build_model, march_set, processes, set_epoch
from hbtool.flows.training_stages import evaluate, loss_of, metric_of, prepare, validation_loader
from hbtool.quantization.fake_quantize import FakeQuantState, set_fake_quantize

ROOT = Path(__file__).resolve().parents[1]
SETTINGS: dict[str, dict[str, object]] = {
    "4-bit weights per tensor": {"weight_bits": 4, "weight_per_channel": False},
    "int8 weights per channel": {},
    "4-bit weights per channel": {"weight_bits": 4},
    "int8 weights per tensor": {"weight_per_channel": False},
}
"""Label -> what differs in quantization_parameters."""

_HEAD = """# What QAT gains on ResNet-20

*Written by `tools/qat_resnet20.py`; do not edit.*

ResNet-20 with published weights, top-1 in percent on the 2,000 test images of the CIFAR-10 subset (stored as JPEG).
Calibration: mse, 500 training images. Training: {epochs} epoch(s) of 10,000 images, SGD, batch 100, learning rate
{rate:g} with a cosine, {threads} threads; activation scales as calibrated. The fixed-point column is the integer model
that is compiled.

The published weights saw the original pixels, not these JPEG files, so training on them alone gains accuracy: the row
*float, trained alike* is the same network with the same data, optimizer and schedule and without any quantization. What
quantization costs is the difference to that row; what QAT gains over calibration alone is the column after it.

| setting | before | calibrated | trained | fixed point | - float trained alike | - calibrated | minutes |
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


def float_control(loaded: LoadedTraining, talk: Talk) -> tuple[float, float]:
    """(accuracy before, accuracy after) of the same training without fake quantizers."""
    given = loaded.config.training_parameters
    with processes("cpu") as mine, march_set(loaded.config.model_parameters.march):
        model = prepare(loaded, build_model(loaded), calibrating=False, device=mine.device)
        loader = build_loader(loaded, "training", str(loaded.config.data_parameters.training), mine, True, True)
        metric, loss, validation = metric_of(loaded), loss_of(loaded), validation_loader(loaded, mine)
        model.eval()
        set_fake_quantize(model, FakeQuantState._FLOAT)
        before = evaluate(model, validation, metric, mine, talk, "float model")
        optimizer = make_optimizer(given, model, mine.world)
        for epoch in range(given.epochs):
            set_epoch(loader, epoch)
            torch.manual_seed(given.seed * 100_003 + epoch * 1009)
            model.train()
            for step, (x, y) in enumerate(loader):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(given, mine.world, epoch, step, len(loader))
                optimizer.zero_grad(set_to_none=True)
                loss(model(x), y).backward()
                optimizer.step()
        model.eval()
        after = evaluate(model, validation, metric, mine, talk, "float model")
    assert before is not None and after is not None
    return before, after


def row(label: str, result: StageResult, control: float, minutes: float) -> str:
    """One line of the table."""
    values = [result.metrics[k] for k in ("float", "calibrated", "QAT", "fixed point")]
    f, c, q, x = (float(v) for v in values if v is not None)
    return f"| {label} | {f:.2f} | {c:.2f} | {q:.2f} | {x:.2f} | {x - control:+.2f} | {x - c:+.2f} | {minutes:.1f} |\n"


class _Prints:
    def info(self, message: str) -> None:
        print(message, flush=True)

    warn = info

    def progress(self, label: str, total: int):
        return Quiet().progress(label, total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.002)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    text = _HEAD.format(epochs=given.epochs, rate=given.rate, threads=given.threads)
    with tempfile.TemporaryDirectory() as folder:
        since = time.perf_counter()
        before, control = float_control(configured(Path(folder), {}, given.epochs, given.rate), _Prints())
        minutes = (time.perf_counter() - since) / 60
        line = f"| float, trained alike | {before:.2f} | | {control:.2f} | | | | {minutes:.1f} |\n"
    print(line, flush=True)
    text += line
    for label, changes in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            since = time.perf_counter()
            result = qat(configured(Path(folder), changes, given.epochs, given.rate), _Prints())
            assert result is not None
            line = row(label, result, control, (time.perf_counter() - since) / 60)
        print(line, flush=True)
        text += line
        (ROOT / "docs" / "qat.md").write_text(text)


if __name__ == "__main__":
    main()
