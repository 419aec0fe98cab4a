"""verify: proves that all executors of an artifact give the same bits, and says how near the float model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hbtool.calibration.similarity import Similarity, similarity
from hbtool.errors import DataError
from hbtool.flows.talk import Quiet, Talk
from hbtool.ir.load import load_model
from hbtool.ir.onnx_session import make_session
from hbtool.runtime.artifact import load_artifact
from hbtool.runtime.session import Session

QUANTIZED = "quantized ONNX in onnxruntime"
HOST = "host runtime"
SIMULATOR = "simulator"
REFERENCE = "reference"


@dataclass(frozen=True)
class Difference:
    """One output in one executor against the host runtime.

    Attributes:
        output: output name.
        executor: which executor.
        elements: elements compared, over all samples.
        differing: elements whose bits differ.
        largest: largest absolute difference.
    """

    output: str
    executor: str
    elements: int
    differing: int
    largest: float


@dataclass(frozen=True)
class VerifyResult:
    """What was compared.

    Attributes:
        samples: number of inputs tried.
        differences: one row per output and executor.
        similarities: float model against the artifact, per output; empty where there is no float model.
    """

    samples: int
    differences: tuple[Difference, ...]
    similarities: Mapping[str, Similarity]

    @property
    def passed(self) -> bool:
        """Whether no element differs anywhere."""
        return all(d.differing == 0 for d in self.differences)


def verify(
    artifact_path: str | Path,
    feeds: Sequence[Mapping[str, np.ndarray]] | None = None,
    *,
    quantized_model: str | Path | None = None,
    float_model: str | Path | None = None,
    random_samples: int = 1,
    seed: int = 0,
    reference: bool = False,
    talk: Talk | None = None,
) -> VerifyResult:
    """Compare the executors bit for bit.

    Args:
        artifact_path: the artifact.
        feeds: inputs in the runtime format, one mapping per sample; None for random ones.
        quantized_model: the quantized ONNX; None looks for it beside the artifact.
        float_model: the original_float ONNX; None looks for it beside the artifact.
        random_samples: how many random samples.
        seed: of the random samples.
        reference: also run the definition of every operator.
        talk: progress.

    Raises:
        ArtifactError, ModelError, DataError: a file or input cannot be used.
    """
    path = Path(artifact_path)
    artifact = load_artifact(path)
    host = Session(artifact)
    stem = path.with_suffix("")
    quantized_path = _beside(quantized_model, Path(f"{stem}_quantized_model.onnx"))
    float_path = _beside(float_model, Path(f"{stem}_original_float_model.onnx"))
    samples = list(feeds) if feeds is not None else random_feeds(host, random_samples, seed)
    if not samples:
        raise DataError("there is nothing to verify with", hint="Give inputs, or a number of random samples.")
    executors = {SIMULATOR: Session(artifact, "sim").run}
    if reference:
        executors[REFERENCE] = Session(artifact, "reference").run
    talk = talk or Quiet()
    counts: dict[tuple[str, str], list[float]] = {}
    meters: dict[str, list[Similarity]] = {}
    names = [o.name for o in host.get_outputs()]
    standard = make_session((quantized_path).read_bytes()) if quantized_path is not None else None
    floats = make_session(load_model(float_path)) if float_path is not None else None
    with talk.progress("verifying", len(samples)) as progress:
        for number, feed in enumerate(samples):
            inputs = host.graph_feeds(feed)
            expected = host.run(None, feed)
            results = {name: run(None, feed) for name, run in executors.items()}
            if standard is not None:
                results[QUANTIZED] = standard.run(names, inputs)
            for executor, arrays in results.items():
                for name, want, got in zip(names, expected, arrays, strict=True):
                    _count(counts.setdefault((name, executor), [0, 0, 0.0]), want, np.asarray(got))
            if floats is not None:
                as_float = {i.name: inputs[i.name].astype(np.float32) for i in floats.get_inputs()}
                for name, want, got in zip(names, floats.run(names, as_float), expected, strict=True):
                    meters.setdefault(name, []).append(similarity(want, got))
            progress(number + 1)
    rows = tuple(
        Difference(name, executor, int(c[0]), int(c[1]), float(c[2])) for (name, executor), c in counts.items()
    )
    return VerifyResult(len(samples), rows, {n: min(m, key=lambda s: s.cosine) for n, m in meters.items()})


def random_feeds(session: Session, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Random inputs in the runtime format: all bytes for images, a normal distribution for feature maps."""
    rng = np.random.default_rng(seed)
    feeds = []
    for _ in range(count):
        feed: dict[str, np.ndarray] = {}
        for arg in session.get_inputs():
            shape = tuple(arg.shape)
            if arg.type == "tensor(uint8)":
                feed[arg.name] = rng.integers(0, 256, shape, dtype=np.uint8)
            elif arg.type in ("tensor(float)", "tensor(double)"):
                dtype = np.float32 if arg.type == "tensor(float)" else np.float64
                feed[arg.name] = rng.standard_normal(shape).astype(dtype)
            elif arg.type == "tensor(bool)":
                feed[arg.name] = rng.integers(0, 2, shape).astype(bool)
            else:
                feed[arg.name] = rng.integers(0, 2, shape).astype(arg.type[len("tensor(") : -1])
        feeds.append(feed)
    return feeds


def _beside(given: str | Path | None, default: Path) -> Path | None:
    if given is not None:
        return Path(given)
    return default if default.exists() else None


def _count(total: list[float], want: np.ndarray, got: np.ndarray) -> None:
    if want.shape != got.shape:
        total[0] += want.size
        total[1] += want.size
        total[2] = float("inf")
        return
    same = (want == got) | ((want != want) & (got != got))
    total[0] += want.size
    total[1] += int(want.size - np.count_nonzero(same))
    if not same.all():
        total[2] = max(total[2], float(np.max(np.abs(want.astype(np.float64) - got.astype(np.float64)))))
