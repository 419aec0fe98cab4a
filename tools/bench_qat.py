"""Speed and memory of QAT: a training step against the float step, a calibration step against a float forward.

    python tools/bench_qat.py [--model mobilenetv2] [--repeats 9] [--json] [--write]

Batch 16, 128x128, SGD. The variants take turns within one run, so that the machine's mood touches all of them; the
figures are medians. Peak memory is that of a process of its own per variant. The exit code is 1 where a figure
misses its limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "samples" / "torch"))

from networks import mobilenet_v2, resnet18

from hbtool.quantization import FakeQuantState, prepare_qat_fx, set_fake_quantize, set_march
from hbtool.quantization.qconfig import get_default_qconfig

BATCH, SIDE = 16, 128
NETWORKS: dict[str, Callable[[], nn.Module]] = {"mobilenetv2": mobilenet_v2, "resnet18": resnet18}
OBSERVERS = ("min_max", "percentile", "mse", "mix", "kl")
LIMITS = {"mobilenetv2": 1.3, "resnet18": 1.2, "calibration": 1.2, "memory": 1.4}
"""Largest ratio to float that the project promises."""
PAGE = Path(__file__).resolve().parents[1] / "docs" / "qat_speed.md"
_HEAD = """# What QAT and calibration cost

*Written by `tools/bench_qat.py --write`; do not edit.*

Ratios to the float model within one run, medians, one thread: batch 16, 128x128, SGD. A calibration step is timed over
four forwards, because `mse` searches on every fourth batch. Memory: the peak that three steps add to a process.

| model | ratio | measured | limit |
|---|---|---|---|
"""


def variants(name: str) -> dict[str, Callable[[], None]]:
    """Label -> one step."""
    torch.manual_seed(1)
    set_march("bayes")
    x, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.arange(BATCH)
    plain = NETWORKS[name]().train()
    qat = prepare_qat_fx(NETWORKS[name](), {"": get_default_qconfig()}).train()
    steps = {"float step": _training(plain, x, labels), "QAT step": _training(qat, x, labels)}
    still = NETWORKS[name]().eval()
    steps["four float forwards"] = _forward(still, x)
    for observer in OBSERVERS:
        calibrated = prepare_qat_fx(still, {"": get_default_qconfig(activation_observer=observer)}).eval()
        set_fake_quantize(calibrated, FakeQuantState.CALIBRATION)
        steps[f"calibration {observer}"] = _forward(calibrated, x)
    return steps


def _training(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def _forward(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Four forwards: an observer that searches on every fourth batch shows its whole cost."""

    def step() -> None:
        with torch.no_grad():
            for _ in range(4):
                model(x)

    return step


def measure(name: str, repeats: int) -> dict[str, float]:
    """Label -> median seconds; one warm-up round. With one thread processor time, which a busy machine leaves alone."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    steps = variants(name)
    times: dict[str, list[float]] = {label: [] for label in steps}
    for round_ in range(repeats + 1):
        for label, step in steps.items():
            since = clock()
            step()
            if round_:
                times[label].append(clock() - since)
    return {label: statistics.median(values) for label, values in times.items()}


def peak_bytes(name: str, label: str) -> int:
    """Peak memory that three steps add to a process that has imported everything."""
    command = [sys.executable, __file__, "--model", name, "--peak", label]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _print_peak(name: str, label: str) -> None:
    torch.manual_seed(1)
    set_march("bayes")
    x, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.arange(BATCH)
    model = NETWORKS[name]().train()
    if label == "QAT step":
        model = prepare_qat_fx(model, {"": get_default_qconfig()}).train()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here, not with the parent's
    before = _peak_kib()
    step = _training(model, x, labels)
    for _ in range(3):
        step()
    print((_peak_kib() - before) * 1024)


def _peak_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(NETWORKS), action="append")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="write docs/qat_speed.md")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak:
        _print_peak(given.model[0], given.peak)
        return
    results, rows, over = {}, [], False
    for name in given.model or sorted(NETWORKS):
        seconds = measure(name, given.repeats)
        forward = seconds["four float forwards"]
        ratios: dict[str, tuple[float, float | None]] = {
            "QAT step / float step": (seconds["QAT step"] / seconds["float step"], LIMITS[name]),
            **{
                f"calibration {o} / float forward": (
                    seconds[f"calibration {o}"] / forward,
                    LIMITS["calibration"] if o == "min_max" else None,
                )
                for o in OBSERVERS
            },
            "QAT memory / float memory": (
                peak_bytes(name, "QAT step") / peak_bytes(name, "float step"),
                LIMITS["memory"],
            ),
        }
        results[name] = {"seconds": seconds, "ratios": {k: v for k, (v, _) in ratios.items()}}
        if not given.json:
            print(name, {k: round(v, 3) for k, v in seconds.items()})
            for label, (value, limit) in ratios.items():
                bound = "" if limit is None else f" (at most {limit}){'' if value <= limit else '  <-- over'}"
                print(f"  {label}: {value:.2f}{bound}")
        rows += [f"| {name} | {k} | {v:.2f} | {limit or ''} |" for k, (v, limit) in ratios.items()]
        over |= any(limit is not None and v > limit for v, limit in ratios.values())
    if given.json:
        print(json.dumps(results, indent=2))
    if given.write:
        PAGE.write_text(_HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    sys.exit(int(over))


if __name__ == "__main__":
    main()
