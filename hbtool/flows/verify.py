"""verify: proves that all executors of an artifact give the same bits, and says how near the float model is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from hbtool.calibration.similarity import Similarity, similarity
from hbtool.errors import ArtifactError, DataError
from hbtool.flows.compile_stage import QUANTIZED_SHA256, removed_nodes
from hbtool.flows.talk import Quiet, Talk
from hbtool.ir import graph
from hbtool.ir.load import load_model, read_proto
from hbtool.ir.onnx_session import make_session
from hbtool.passes.remove_border_nodes import RemovedNode
from hbtool.runtime.artifact import Artifact, load_artifact
from hbtool.runtime.removed import finish_output, original_input
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
    name: str | None = None,
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
        name: which model of a packed file.

    Raises:
        ArtifactError, ModelError, DataError: a file or input cannot be used.
    """
    path = Path(artifact_path)
    artifact = load_artifact(path, name)
    host = Session(artifact)
    removed = removed_nodes(artifact)
    stem = path.with_suffix("")
    standard_role = "quantized_removed_model" if removed else "quantized_model"
    quantized_path = _beside(quantized_model, Path(f"{stem}_{standard_role}.onnx"))
    if quantized_model is None and quantized_path is not None:
        _check_same_build(artifact, quantized_path)
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
    standard = _quantized_session(quantized_path, host) if quantized_path is not None else None
    floats = make_session(load_model(float_path)) if float_path is not None else None
    with talk.progress("verifying", len(samples)) as progress:
        for number, feed in enumerate(samples):
            inputs = host.graph_feeds(feed)
            expected = host.run(None, feed)
            results = {name: run(None, feed) for name, run in executors.items()}
            if standard is not None:
                results[QUANTIZED] = run_in_batches(standard, names, inputs)
            for executor, arrays in results.items():
                for output, want, got in zip(names, expected, arrays, strict=True):
                    _count(counts.setdefault((output, executor), [0, 0, 0.0]), want, np.asarray(got))
            if floats is not None:
                given = dict(zip(names, expected, strict=True))
                for output, seen in _against_float(floats, inputs, given, removed).items():
                    meters.setdefault(output, []).append(seen)
            progress(number + 1)
    rows = tuple(
        Difference(name, executor, int(c[0]), int(c[1]), float(c[2])) for (name, executor), c in counts.items()
    )
    return VerifyResult(len(samples), rows, {n: min(m, key=lambda s: s.cosine) for n, m in meters.items()})


def _quantized_session(path: Path, host: Session) -> onnxruntime.InferenceSession:
    """The quantized ONNX, if it takes and gives what the artifact does.

    Raises:
        ModelError: it cannot be read. DataError: it is the quantized form of something else.
    """
    session = make_session(read_proto(path))
    inputs = host.artifact.model.graph.inputs
    kinds = {graph.value_name(v): str(np.dtype(v.dtype.numpy()).name) for v in inputs if v.dtype is not None}
    stated = {i.name: i.type for i in session.get_inputs()}
    missing = [o.name for o in host.get_outputs() if o.name not in {o.name for o in session.get_outputs()}]
    names = {"float": "float32", "double": "float64"}
    found = {name: names.get(kind[len("tensor(") : -1], kind[len("tensor(") : -1]) for name, kind in stated.items()}
    if found != kinds or missing:
        raise DataError(
            f"it takes {_listed(found)}, the artifact {_listed(kinds)}"
            + (f"; it has no output {missing[0]!r}" if missing else ""),
            where=str(path),
            hint="Name the quantized ONNX that was written with the artifact.",
        )
    return session


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def run_in_batches(
    session: onnxruntime.InferenceSession, names: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """The outputs; where the session's batch is smaller (input_batch), it runs part by part."""
    declared = {i.name: i.shape for i in session.get_inputs()}
    parts = 1
    for name, array in feeds.items():
        size = declared[name][0] if declared.get(name) else None
        if isinstance(size, int) and size and array.shape[0] != size and array.shape[0] % size == 0:
            parts = array.shape[0] // size
    if parts == 1:
        return [np.asarray(a) for a in session.run(list(names), dict(feeds))]
    rows = [
        session.run(list(names), {n: np.split(a, parts)[index] for n, a in feeds.items()}) for index in range(parts)
    ]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _against_float(
    floats: onnxruntime.InferenceSession,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    removed: Sequence[RemovedNode],
) -> dict[str, Similarity]:
    """Similarity per output of the float model; the work of removed nodes is done here."""
    kinds = {i.name: i.type for i in floats.get_inputs()}
    feeds = {}
    for name, array in inputs.items():
        real = original_input(array, name, removed)
        feeds[name] = real.astype(np.float32) if kinds[name] == "tensor(float)" else real
    names = [o.name for o in floats.get_outputs() if o.name in outputs]
    wanted = run_in_batches(floats, names, feeds)
    return {
        name: similarity(want, finish_output(outputs[name], name, removed))
        for name, want in zip(names, wanted, strict=True)
    }


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


def _check_same_build(artifact: Artifact, quantized: Path) -> None:
    """The quantized ONNX beside an artifact is the one written with it, not that of a later build that was stopped."""
    expected = artifact.build.get(QUANTIZED_SHA256)
    if expected is not None and hashlib.sha256(quantized.read_bytes()).hexdigest() != expected:
        raise ArtifactError(
            f"{quantized.name} is not the one that was written with {artifact.name}",
            where=str(quantized),
            hint="Build again, or name the file to compare with by --quantized.",
        )


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
