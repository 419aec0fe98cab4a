"""`Session`: an artifact behind onnxruntime's interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime

from hbtool.compiler.segments import Segment
from hbtool.errors import ArtifactError, DataError, HbError, UsageError
from hbtool.ir import graph, meta
from hbtool.ir.onnx_session import make_session
from hbtool.numerics.qtype import QParams
from hbtool.passes.to_standard_onnx import to_standard_onnx
from hbtool.runtime.artifact import Artifact, graph_outputs, load_artifact
from hbtool.runtime.input_format import InputFormat, to_graph_tensor
from hbtool.runtime.reference import run_reference
from hbtool.runtime.simulator import simulate

_INTEGERS = (ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32)

Backend = Literal["host", "sim", "reference"]
BACKENDS: tuple[Backend, ...] = ("host", "sim", "reference")


@dataclass(frozen=True)
class NodeArg:
    """Name, ONNX type and shape of an input or output, as onnxruntime gives them.

    `quantization` says what raw integers mean (real = (integer - zero_point) * scale), after the Quantize or Dequantize
    of that input or output was removed; None where the application sees real numbers or pictures.
    """

    name: str
    type: str
    shape: list[int]
    quantization: QParams | None = None


class Session:
    """Runs an artifact on a PC.

    Args:
        artifact: a file, or an artifact in memory.
        name: which model of a packed file.
        backend: `host` runs all integers in onnxruntime at full speed, `sim` executes the Programs instruction by
            instruction on simulated memory, `reference` runs the definition of every operator. Same bits.

    Raises:
        ArtifactError: the file cannot be used.
    """

    def __init__(self, artifact: str | Path | Artifact, backend: Backend = "host", name: str | None = None) -> None:
        if backend not in BACKENDS:
            raise UsageError(f"unknown backend {backend!r}", hint=f"Backends: {', '.join(BACKENDS)}.")
        self.artifact = artifact if isinstance(artifact, Artifact) else load_artifact(artifact, name)
        self.backend = backend
        self._host: onnxruntime.InferenceSession | None = None
        if backend == "host":
            with _graph_errors(self.artifact.name):
                self._host = make_session(to_standard_onnx(self.artifact.model))

    def get_inputs(self) -> list[NodeArg]:
        """What the application feeds: images as uint8 in the runtime format, feature maps as they are."""
        return described_inputs(self.artifact)

    def get_outputs(self) -> list[NodeArg]:
        """The model's outputs."""
        return described_outputs(self.artifact)

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        """Run once.

        Args:
            output_names: which outputs, in which order; None for all.
            feeds: input name -> array (or bytes) in the runtime format of the input. An int8 array of an image input
                is taken as already minus 128.

        Raises:
            DataError: an input is missing, unknown, or of the wrong type or size.
        """
        prepared = self.graph_feeds(feeds)
        results = self._run(prepared)
        wanted = graph_outputs(self.artifact.model) if output_names is None else output_names
        if unknown := [name for name in wanted if name not in results]:
            raise DataError(f"there is no output {unknown[0]!r}", hint=f"Outputs: {', '.join(results)}.")
        return [results[name] for name in wanted]

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with _graph_errors(self.artifact.name):
            return self._run_backend(feeds)

    def _run_backend(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._host is not None:
            names = graph_outputs(self.artifact.model)
            return dict(zip(names, (np.asarray(r) for r in self._host.run(None, feeds)), strict=True))
        if self.backend == "sim":
            return run_reference(self.artifact.model, feeds, run_bpu=self._simulate)
        return run_reference(self.artifact.model, feeds)

    def _simulate(self, segment: Segment, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return simulate(self.artifact.programs[segment.name], self.artifact.target, feeds).outputs

    def graph_feeds(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The same inputs in the types of the INTEGER graph (images as int8)."""
        names = [part.name for form in self.artifact.inputs for part in form.parts]
        if unknown := [name for name in feeds if name not in names]:
            raise DataError(f"there is no input {unknown[0]!r}", hint=f"Inputs: {', '.join(names)}.")
        if missing := [name for name in names if name not in feeds]:
            raise DataError(f"input {missing[0]!r} is missing", hint=f"Inputs: {', '.join(names)}.")
        return {
            form.name: _stacked([self._graph_tensor(feeds[part.name], part) for part in form.parts])
            for form in self.artifact.inputs
        }

    @staticmethod
    def _graph_tensor(fed: Any, form: InputFormat) -> np.ndarray:
        if form.is_image and isinstance(fed, np.ndarray) and fed.dtype == np.int8 and fed.shape == form.shape:
            return fed
        if isinstance(fed, bytes | bytearray | memoryview):
            return to_graph_tensor(bytes(fed), form)
        return to_graph_tensor(np.asarray(fed), form)


@contextmanager
def _graph_errors(name: str) -> Iterator[None]:
    """One clear error where a graph passed all checks on loading and still cannot run: a damaged or hostile file."""
    try:
        yield
    except HbError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ArtifactError(f"the artifact's graph cannot run: {first}", where=name, hint="Build it again.") from error


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def described_inputs(artifact: Artifact) -> list[NodeArg]:
    """What the application feeds, in the order of the graph's inputs."""
    forms = {form.name: form for form in artifact.inputs}
    values = artifact.model.graph.inputs
    return [_described(part, meta.qparams(v)) for v in values for part in forms[graph.value_name(v)].parts]


def described_outputs(artifact: Artifact) -> list[NodeArg]:
    """What the application gets, in the order of the graph's outputs."""
    outputs = []
    for value in artifact.model.graph.outputs:
        kind = f"tensor({_onnx_name(value.dtype.numpy()) if value.dtype is not None else 'float'})"
        q = meta.qparams(value) if value.dtype in _INTEGERS else None
        outputs.append(NodeArg(graph.value_name(value), kind, list(graph.known_shape(value) or ()), q))
    return outputs


def _onnx_name(dtype: Any) -> str:
    return {"float32": "float", "float64": "double"}.get(np.dtype(dtype).name, np.dtype(dtype).name)


def _described(form: InputFormat, q: QParams | None) -> NodeArg:
    raw = q if not form.is_image and np.issubdtype(form.fed_dtype, np.integer) else None
    return NodeArg(form.name, f"tensor({_onnx_name(form.fed_dtype)})", list(form.fed_shape), raw)
