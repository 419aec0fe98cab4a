"""Runs the models of shared/real through makertbin and writes docs/accuracy.md.

    python tools/real_models.py                     every model, calibration_type default
    python tools/real_models.py vit lprnet          some of them
    python tools/real_models.py --methods           the calibration methods, on three models
    python tools/real_models.py --full              all evaluation samples
    python tools/real_models.py --write             put each row into its table of docs/accuracy.md

The exit code is 1 where a model falls further than it may.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from real_cases import CASES, Case, Feeds

import hbtool.ops  # noqa: F401  # registers the operators
from hbtool.calibration.similarity import similarity
from hbtool.config import load_config
from hbtool.errors import HbError
from hbtool.flows.makertbin import BuildResult, makertbin
from hbtool.runtime import Session

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "accuracy.md"
METHODS: dict[str, dict[str, str]] = {
    "max": {"calibration_type": "max"},
    "max, percentile 0.99995": {"calibration_type": "max", "max_percentile": "0.99995"},
    "kl": {"calibration_type": "kl"},
    "mse": {"calibration_type": "mse"},
    "max, per channel": {"calibration_type": "max", "per_channel": "true"},
    "max, asymmetric": {"calibration_type": "max", "optimization": "asymmetric"},
    "max, bias correction": {"calibration_type": "max", "optimization": "bias_correction"},
    "mse, asymmetric, bias correction": {"calibration_type": "mse", "optimization": "asymmetric,bias_correction"},
    "default": {"calibration_type": "default"},
    "mix": {"calibration_type": "mix"},
}
METHOD_MODELS = ("mobilenetv2", "resnet20", "vit")


@dataclass
class Recorder:
    """Runs a model and keeps its outputs."""

    session: object
    convert: object = None
    outputs: list[list[np.ndarray]] = field(default_factory=list)

    def __call__(self, feeds: Feeds) -> list[np.ndarray]:
        fed = self.convert(feeds) if self.convert else feeds
        self.outputs.append(self.session.run(None, fed))
        return self.outputs[-1]


@dataclass(frozen=True)
class Outcome:
    """What one build of a case gave."""

    case: Case
    figures: dict[str, float]
    reference: dict[str, float]
    cosine: float
    agreement: float | None
    build: BuildResult | None
    seconds: float
    error: str = ""

    @property
    def good(self) -> bool:
        if self.error:
            return False
        first = next(iter(self.figures), None)
        fell = self.reference[first] - self.figures[first] if first else 0.0
        return fell <= (self.case.allowed if self.case.allowed is not None else np.inf) + 1e-9 and (
            self.case.cosine is None or self.cosine >= self.case.cosine
        )


class Bench:
    """A case with its float outputs, which are computed once."""

    def __init__(self, case: Case) -> None:
        self.case = case
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(case.model), options, providers=["CPUExecutionProvider"])
        self.outputs = [o.name for o in session.get_outputs()]
        self.float_run = Recorder(session)
        self.reference = case.evaluate(self.float_run)

    def build(self, calibration: dict[str, str], march: str = "bayes-e") -> Outcome:
        """Build with these calibration_parameters and evaluate the artifact."""
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            config = write_config(self.case, Path(folder), calibration, march)
            try:
                result = makertbin(load_config(config))
            except HbError as error:
                return Outcome(self.case, {}, self.reference, 0.0, None, None, time.perf_counter() - start, str(error))
        seconds = time.perf_counter() - start
        run = Recorder(Session(result.artifact), pixels(self.case) if self.case.picture else None)
        figures = self.case.evaluate(run)
        cosine, agreement = self._closeness(run)
        return Outcome(self.case, figures, self.reference, cosine, agreement, result, seconds)

    def _closeness(self, run: Recorder) -> tuple[float, float | None]:
        """The mean cosine of the worst output; for classifiers also how often both take the same class, in percent."""
        pairs = list(zip(self.float_run.outputs, run.outputs, strict=True))
        cosines = [[similarity(a, b).cosine for a, b in zip(x, y, strict=True)] for x, y in pairs]
        same = None
        if "top-1 %" in self.reference:
            same = 100 * float(np.mean([x[0].argmax() == y[0].argmax() for x, y in pairs]))
        return float(np.mean(cosines, axis=0).min()), same


def pixels(case: Case):
    """From the float model's input back to the bytes that the camera gives, [1, H, W, 3]."""
    assert case.picture is not None
    _, mean, std = case.picture

    def convert(feeds: Feeds) -> Feeds:
        shape = (1, -1, 1, 1)
        back = {n: x * np.reshape(std, shape) + np.reshape(mean, shape) for n, x in feeds.items()}
        return {n: np.rint(x).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1).copy() for n, x in back.items()}

    return convert


def write_config(case: Case, folder: Path, calibration: dict[str, str], march: str) -> Path:
    """A config.yaml with its calibration files, as a user would write it."""
    names = list(case.calibration[0])
    kind = case.picture[0] if case.picture else "featuremap"
    for name in names:
        (folder / f"{name}_f32").mkdir()
    for number, sample in enumerate(case.calibration):
        if case.picture:
            sample = {n: x.astype(np.float32).transpose(0, 3, 1, 2) for n, x in pixels(case)(sample).items()}
        for name, array in sample.items():
            np.save(folder / f"{name}_f32" / f"{number:04}.npy", array)
    shapes = ";".join("x".join(map(str, case.calibration[0][n].shape)) for n in names)
    lines = [
        "model_parameters:",
        f"  onnx_model: {case.model}",
        f"  march: {march}",
        f"  output_model_file_prefix: {case.name}",
        "  working_dir: out",
        "input_parameters:",
        f"  input_name: '{';'.join(names)}'",
        f"  input_shape: '{shapes}'",
        f"  input_type_train: '{';'.join([kind] * len(names))}'",
        f"  input_type_rt: '{';'.join([kind] * len(names))}'",
        f"  input_layout_train: '{';'.join(['NCHW'] * len(names))}'",
    ]
    if case.picture:
        _, mean, std = case.picture
        lines += [
            "  input_layout_rt: NHWC",
            "  norm_type: data_mean_and_scale",
            f"  mean_value: {' '.join(map(str, mean))}",
            f"  scale_value: {' '.join(f'{1 / s:.9g}' for s in std)}",
        ]
    else:
        lines += [f"  norm_type: '{';'.join(['no_preprocess'] * len(names))}'"]
    lines += [
        "calibration_parameters:",
        f"  cal_data_dir: '{';'.join(f'{n}_f32' for n in names)}'",
        f"  cal_data_type: '{';'.join(['float32'] * len(names))}'",
        *(f"  {key}: {value}" for key, value in calibration.items()),
        "compiler_parameters:",
        "  compile_mode: latency",
        "  optimize_level: O2",
    ]
    path = folder / "config.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def text(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" if value >= 1 else f"{name} {value:.4f}" for name, value in figures.items())


def model_row(outcome: Outcome) -> tuple[str, ...]:
    devices = [r.device for r in outcome.build.nodes] if outcome.build else []
    return (
        outcome.case.name,
        outcome.case.split,
        text(outcome.reference) or "--",
        outcome.error.splitlines()[0] if outcome.error else text(outcome.figures) or "--",
        f"{outcome.cosine:.4f}",
        outcome.build.method if outcome.build else "--",
        f"{devices.count('BPU')} / {devices.count('CPU')}",
        f"{outcome.seconds:.0f}",
        "yes" if outcome.good else "NO",
    )


MODEL_HEADER = ("model", "samples: calibrate / evaluate", "float", "int8", "cosine", "method chosen")
MODEL_HEADER += ("BPU / CPU nodes", "makertbin, s", "within its limit")
METHOD_HEADER = ("model", "method", "float top-1 %", "int8 top-1 %", "same class as float %", "cosine", "makertbin, s")


def method_row(name: str, outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.case.name,
        name,
        f"{outcome.reference['top-1 %']:.2f}",
        f"{outcome.figures['top-1 %']:.2f}" if outcome.figures else outcome.error.splitlines()[0],
        f"{outcome.agreement:.1f}" if outcome.agreement is not None else "--",
        f"{outcome.cosine:.4f}",
        f"{outcome.seconds:.0f}",
    )


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = tuple(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def put(page: str, marker: str, header: tuple[str, ...], row: tuple[str, ...], keys: int) -> str:
    """The page with one row changed or added in the table behind `<!-- marker -->`; `keys` cells name a row."""
    begin = f"<!-- {marker} -->\n"
    head, rest = page.split(begin)
    end = rest.index("<!-- end -->")
    lines = [line for line in rest[:end].splitlines() if line.startswith("| ")][2:]
    rows = {c[:keys]: c for c in (tuple(line.strip("| ").split(" | ")) for line in lines)}
    rows[row[:keys]] = row
    return head + begin + markdown(header, rows.values()) + "\n" + rest[end:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"of: {', '.join(CASES)}")
    parser.add_argument("--methods", action="store_true", help="compare the calibration methods")
    parser.add_argument("--only", choices=METHODS, action="append", help="with --methods: only these")
    parser.add_argument("--full", action="store_true", help="all evaluation samples")
    parser.add_argument("--calibration-type", default="default", help="for every model")
    parser.add_argument("--write", action="store_true", help="write docs/accuracy.md")
    options = parser.parse_args()
    root = Path(os.environ.get("HBTOOL_SHARED") or ROOT.parent / "shared") / "real"
    if not root.is_dir():
        print(f"the folder of real models is not there: {root.name} beside the checkout", file=sys.stderr)
        return 1
    if unknown := set(options.models) - set(CASES):
        parser.error(f"unknown model {sorted(unknown)[0]!r}; there are: {', '.join(CASES)}")
    good = True

    def done(marker: str, header: tuple[str, ...], row: tuple[str, ...], keys: int) -> None:
        print(" | ".join(row), flush=True)
        if options.write:
            PAGE.write_text(put(PAGE.read_text(), marker, header, row, keys))

    if options.methods:
        for name in options.models or METHOD_MODELS:
            bench = Bench(CASES[name](root, options.full))
            for method in options.only or METHODS:
                done("methods", METHOD_HEADER, method_row(method, bench.build(METHODS[method])), 2)
    else:
        for name in options.models or CASES:
            bench = Bench(CASES[name](root, options.full))
            outcome = bench.build({"calibration_type": options.calibration_type})
            good = good and outcome.good
            done("models", MODEL_HEADER, model_row(outcome), 1)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
