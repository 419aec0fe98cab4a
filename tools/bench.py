"""Measures what the README and docs quote: ratios within one run, medians. Writes docs/benchmarks.md.

    python tools/bench.py            MobileNetV2 of shared/real, or the digits sample where that folder is absent
    python tools/bench.py --write    also writes docs/benchmarks.md

The exit code is 1 where a figure misses its limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from real_cases import CASES, Case
from real_models import ROOT, Recorder, markdown, write_config

from hbtool.analysis.sensitivity import SensitivityRequest, sensitivity
from hbtool.calibration.similarity import similarity
from hbtool.config import load_config
from hbtool.flows.debug import analyse
from hbtool.flows.makertbin import makertbin
from hbtool.runtime import Session

PAGE = ROOT / "docs" / "benchmarks.md"
REPEATS = 5
MEMORY_PROBE = """
import resource, sys
from hbtool.analysis.sensitivity import SensitivityRequest, sensitivity
from hbtool.calibration.similarity import similarity
from hbtool.config import load_config
from hbtool.flows.debug import analyse
from hbtool.flows.makertbin import makertbin
makertbin(load_config(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def session_of(path: Path | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def bare_pass(case: Case) -> float:
    """Seconds of the float model over the calibration samples."""
    session = session_of(case.model)
    session.run(None, case.calibration[0])
    return seconds(lambda: [session.run(None, sample) for sample in case.calibration])


def whole_build(case: Case, calibration: dict[str, str]) -> float:
    """Seconds of makertbin, with everything."""
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(case, Path(folder), calibration, "bayes-e")
        return seconds(lambda: makertbin(load_config(config)))


def peak_bytes(case: Case) -> int:
    """Peak resident memory of makertbin with kl in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(case, Path(folder), {"calibration_type": "kl"}, "bayes-e")
        result = subprocess.run([sys.executable, "-c", MEMORY_PROBE, str(config)], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    return int(result.stdout.split()[-1]) * 1024


class _Reader(CalibrationDataReader):
    def __init__(self, case: Case, count: int) -> None:
        self._samples = iter(case.calibration[:count])

    def get_next(self):
        return next(self._samples, None)


def quantized_static(case: Case, folder: Path, count: int, method: CalibrationMethod) -> Path:
    """The model quantized by onnxruntime: Q/DQ, U8S8, weights per channel."""
    clean, static = folder / "clean.onnx", folder / "static.onnx"
    quant_pre_process(str(case.model), str(clean))
    quantize_static(
        clean,
        static,
        _Reader(case, count),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibrate_method=method,
    )
    return static


def closeness(case: Case, run: onnxruntime.InferenceSession | Session) -> tuple[float, float]:
    """Mean cosine of the first output to the float model, and how often both take the same class, 0..1."""
    floats, ours = Recorder(session_of(case.model)), Recorder(run)
    case.evaluate(floats)
    case.evaluate(ours)
    pairs = [(a[0], b[0]) for a, b in zip(floats.outputs, ours.outputs, strict=True)]
    cosine = float(np.mean([similarity(a, b).cosine for a, b in pairs]))
    return cosine, float(np.mean([a.argmax() == b.argmax() for a, b in pairs]))


def accuracies(case: Case) -> tuple[tuple[float, float], tuple[float, float]]:
    """Closeness of our artifact with default settings and of onnxruntime's MinMax, on the same samples."""
    with tempfile.TemporaryDirectory() as folder:
        static = quantized_static(case, Path(folder), len(case.calibration), CalibrationMethod.MinMax)
        config = write_config(case, Path(folder), {"calibration_type": "default"}, "bayes-e")
        artifact = makertbin(load_config(config)).artifact
        return closeness(case, Session(artifact)), closeness(case, session_of(static))


def inference_ratios(case: Case) -> tuple[float, float, float]:
    """Milliseconds per inference: float in onnxruntime, its own U8S8 Q/DQ model, our host runtime; interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        static = quantized_static(case, Path(folder), 10, CalibrationMethod.MinMax)
        # Zero points on both sides: the peer's U8 activations have them too.
        setting = {**_MAX, "optimization": "asymmetric"}
        config = write_config(replace(case, calibration=case.calibration[:10]), Path(folder), setting, "bayes-e")
        ours = Session(makertbin(load_config(config)).artifact)
        runs = [session_of(case.model), session_of(static), ours]
        sample = case.calibration[0]
        for run in runs:
            run.run(None, sample)
        rounds = [[seconds(lambda run=run: run.run(None, sample)) for run in runs] for _ in range(60)]
    a, b, c = (1000 * statistics.median(r[i] for r in rounds) for i in range(3))
    return a, b, c


def sensitivity_seconds(case: Case) -> tuple[float, float, int]:
    """Seconds on the clock and of all cores for every quantized node over 16 samples, and how many nodes there are."""
    with tempfile.TemporaryDirectory() as folder:
        few = replace(case, calibration=case.calibration[:16])
        subject = analyse(load_config(write_config(few, Path(folder), _MAX, "bayes-e"))).subject
        rows: list[object] = []
        before = time.process_time()
        taken = seconds(lambda: rows.extend(sensitivity(subject, SensitivityRequest(samples=16))))
    return taken, time.process_time() - before, len(rows)


_MAX = {"calibration_type": "max"}
_KL = {"calibration_type": "kl"}


def repeated(case: Case, count: int) -> Case:
    """The same samples over and over, `count` in all."""
    return replace(case, calibration=[case.calibration[i % len(case.calibration)] for i in range(count)])


def measure(case: Case) -> list[tuple[str, str, str, bool]]:
    """Rows: what, figure, limit, whether it is kept."""
    rows = []

    def row(what: str, figure: str, limit: str, kept: bool) -> None:
        rows.append((what, figure, limit, kept))
        print(" | ".join((what, figure, limit, "yes" if kept else "NO")), flush=True)

    bare = statistics.median(bare_pass(case) for _ in range(3))
    built = statistics.median(whole_build(case, _MAX) for _ in range(3))
    row(
        f"makertbin, max, {len(case.calibration)} images / bare float passes over them",
        f"{built:.1f} s / {bare:.1f} s = {built / bare:.1f}x",
        f"2x + 5 s = {2 * bare + 5:.1f} s",
        built <= 2 * bare + 5,
    )
    many = repeated(case, 500)
    bare_many = bare_pass(many)
    built = whole_build(many, _KL)
    ratio = built / bare_many
    row(
        "makertbin, kl, 500 images / bare float passes over them",
        f"{built:.1f} s / {bare_many:.1f} s = {ratio:.2f}x",
        "3x",
        ratio <= 3,
    )
    few_peak, many_peak = peak_bytes(case), peak_bytes(many)
    growth = many_peak / few_peak
    row(
        f"peak memory, kl, 500 images / {len(case.calibration)} images",
        f"{many_peak / 2**20:.0f} MiB / {few_peak / 2**20:.0f} MiB = {growth:.2f}x",
        "1.10x",
        growth <= 1.1,
    )
    real, static, ours = inference_ratios(case)
    row(
        "host runtime (max, asymmetric) / onnxruntime's quantize_static (U8S8 Q/DQ), one inference",
        f"{ours:.1f} ms / {static:.1f} ms = {ours / static:.2f}x (float {real:.1f} ms: {ours / real:.2f}x)",
        "1x (5 % for noise)",
        ours <= 1.05 * static,
    )
    taken, cpu, nodes = sensitivity_seconds(case)
    row(f"sensitivity of {nodes} nodes over 16 images", f"{taken:.1f} s ({cpu:.1f} s of CPU)", "120 s", taken < 120)
    if case.allowed is not None:  # it has labels
        (cosine, same), (their_cosine, their_same) = accuracies(case)
        row(
            f"default settings, {len(case.calibration)} images, beside onnxruntime's quantize_static (MinMax)",
            f"cosine {cosine:.4f} / {their_cosine:.4f}, same class as float {same:.3f} / {their_same:.3f}",
            "cosine 0.98, same class 0.96",
            cosine >= 0.98 and same >= 0.96,
        )
    command = [sys.executable, "-m", "hbtool", "--help"]
    start = statistics.median(seconds(lambda: subprocess.run(command, capture_output=True)) for _ in range(REPEATS))
    row("hbtool --help", f"{start:.2f} s", "0.3 s", start < 0.3)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args()
    root = Path(os.environ.get("HBTOOL_SHARED") or ROOT.parent / "shared") / "real"
    if root.is_dir():
        case = CASES["mobilenetv2"](root, False)
    else:
        print("the folder of real models is not beside the checkout: measuring the digits sample", file=sys.stderr)
        model = ROOT / "samples" / "digits" / "digits.onnx"
        rng = np.random.default_rng(0)
        (entry,) = session_of(model).get_inputs()
        samples = [{entry.name: rng.random(entry.shape, np.float32) * 255} for _ in range(100)]
        case = Case("digits", model, samples, lambda run: {}, None, "100 random")
    rows = measure(case)
    table = markdown(("what", "measured", "limit", "kept"), [(*r[:3], "yes" if r[3] else "NO") for r in rows])
    if options.write:
        threads = os.cpu_count()
        text = (
            "# Benchmarks\n\nWritten by `python tools/bench.py --write`. Times are wall clock, medians, and the two\n"
            "sides of a ratio are measured in one run on one machine: read the ratios, not the seconds.\n\n"
            f"Model: {case.name}; {threads} cores; onnxruntime {onnxruntime.__version__}.\n\n{table}\n"
        )
        PAGE.write_text(text)
    return 0 if all(r[3] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
