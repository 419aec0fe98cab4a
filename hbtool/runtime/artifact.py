"""An artifact in memory: the INTEGER graph, the Programs of its BPU segments, and what the application must know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from hbtool.artifact.container import Container, read_container, write_container
from hbtool.artifact.pack import select_model
from hbtool.artifact.program import SegmentProgram
from hbtool.artifact.program_json import read_program, write_program
from hbtool.compiler.segments import Segment, split_segments
from hbtool.errors import ArtifactError, ConfigError, HbError
from hbtool.ir import graph
from hbtool.runtime.artifact_check import check_graph, check_program, check_proto
from hbtool.runtime.input_format import InputFormat
from hbtool.target.target import Target
from hbtool.target.target import from_json as target_from_json
from hbtool.target.target import to_json as target_to_json


@dataclass(frozen=True)
class Artifact:
    """What makertbin builds and the runtime runs.

    Attributes:
        name: model name.
        march: march (or path of the target file) it was compiled for.
        target: the machine, with all its figures, so that reports need no file.
        model: the INTEGER graph.
        programs: segment name -> compiled program with its weights, one per BPU segment.
        inputs: what the application feeds, by graph input.
        build: the configuration and versions it was built with (plain JSON).
    """

    name: str
    march: str
    target: Target = field(repr=False)
    model: ir.Model = field(repr=False)
    programs: Mapping[str, SegmentProgram] = field(repr=False)
    inputs: tuple[InputFormat, ...]
    build: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def segments(self) -> tuple[Segment, ...]:
        """The segments in execution order."""
        return split_segments(self.model)


def save_artifact(artifact: Artifact, path: str | Path) -> Path:
    """Write an artifact as one step."""
    proto = ir.to_proto(artifact.model)
    tensors: dict[str, np.ndarray] = {}
    shared: dict[str, list[Any]] = {}
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        place = _in_weights(array, artifact.programs)
        if place is None:
            tensors[f"const/{tensor.name}"] = array
        else:
            shared[tensor.name] = list(place)
        for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(name)
    tensors["graph"] = np.frombuffer(proto.SerializeToString(), np.uint8)
    for name, compiled in artifact.programs.items():
        tensors[f"program/{name}"] = np.frombuffer(write_program(compiled.program).encode(), np.uint8)
        tensors[f"weights/{name}"] = np.frombuffer(compiled.weights, np.uint8)
    header = {
        "name": artifact.name,
        "march": artifact.march,
        "target": target_to_json(artifact.target),
        "inputs": [_input_to_json(form) for form in artifact.inputs],
        "build": dict(artifact.build),
        "shared": shared,
    }
    return write_container(path, Container(header, tensors))


def load_artifact(path: str | Path, name: str | None = None) -> Artifact:
    """Read and check an artifact; `name` chooses one of a packed file.

    Raises:
        ArtifactError: missing, truncated, damaged, of another version, or inconsistent in itself.
    """
    where = str(path)
    container = select_model(read_container(path), name, where)
    header = container.header
    try:
        model = _model(container.tensors, header.get("shared", {}), where)
        inputs = tuple(_input_from_json(entry) for entry in header["inputs"])
        name, march, target = str(header["name"]), str(header["march"]), target_from_json(header["target"], where)
        build = dict(header.get("build", {}))
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise ArtifactError(f"the header is incomplete: {error}", where=where, hint="Build it again.") from error
    programs = {
        key.removeprefix("program/"): _program(container.tensors, key.removeprefix("program/"), where)
        for key in container.tensors
        if key.startswith("program/")
    }
    artifact = Artifact(name, march, target, model, programs, inputs, build)
    segments = {s.name: s for s in artifact.segments() if s.device == "BPU"}
    if set(programs) != set(segments):
        raise ArtifactError("the programs do not match the segments of the graph", where=where, hint="Build it again.")
    for key, compiled in programs.items():
        check_program(compiled.program, segments[key], target, where)
    return artifact


def _program(tensors: Mapping[str, np.ndarray], name: str, where: str) -> SegmentProgram:
    program = read_program(tensors[f"program/{name}"].tobytes(), f"{where} (program/{name})")
    weights = tensors.get(f"weights/{name}")
    stored = 0 if weights is None else weights.nbytes
    needed = sum(r.bytes for r in program.regions if r.kind == "weights")
    if stored != needed:
        raise ArtifactError(
            f"segment {name!r} has {stored} bytes of weights, its program needs {needed}",
            where=where,
            hint="Build it again.",
        )
    return SegmentProgram(program, b"" if weights is None else weights.tobytes())


SMALLEST_SHARED_BYTES = 256
"""Smaller constants are stored as they are: looking for them costs more than they do."""


def _in_weights(array: np.ndarray, programs: Mapping[str, SegmentProgram]) -> tuple[str, int] | None:
    """(segment, offset) of a constant inside a weight region, None where it is not there in one piece."""
    if array.nbytes < SMALLEST_SHARED_BYTES:
        return None
    data = array.tobytes()
    places = ((name, compiled.weights.find(data)) for name, compiled in programs.items())
    return next(((name, offset) for name, offset in places if offset >= 0), None)


def _stored(
    tensor: onnx.TensorProto, tensors: Mapping[str, np.ndarray], shared: Mapping[str, Any], where: str
) -> bytes:
    """The data of one constant, checked against the shape and type that the graph states."""
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if tensor.name not in shared:
        array = tensors[f"const/{tensor.name}"]
        if tuple(tensor.dims) == array.shape and dtype == array.dtype:
            return bytes(array.tobytes())
    else:
        segment, offset = str(shared[tensor.name][0]), int(shared[tensor.name][1])
        weights = tensors[f"weights/{segment}"]
        size = math.prod(tensor.dims) * dtype.itemsize
        if 0 <= offset <= weights.nbytes - size and size >= 0:
            return bytes(weights[offset : offset + size].tobytes())
    raise ArtifactError(f"constant {tensor.name!r} has another size or type than the graph says", where=where)


def _model(tensors: Mapping[str, np.ndarray], shared: Mapping[str, Any], where: str) -> ir.Model:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(tensors["graph"].tobytes())
        for tensor in proto.graph.initializer:
            tensor.raw_data = _stored(tensor, tensors, shared, where)
        check_proto(proto, where)
        model = ir.from_proto(proto)
        check_graph(model, where)
        return model
    except HbError:
        raise
    except Exception as error:
        raise ArtifactError(f"the graph cannot be read: {error}", where=where, hint="Build it again.") from error


def _input_to_json(form: InputFormat) -> dict[str, Any]:
    return {
        "name": form.name,
        "shape": list(form.shape),
        "type_rt": form.type_rt,
        "layout_rt": form.layout_rt,
        "layout_graph": form.layout_graph,
        "space_and_range": form.space_and_range,
        "dtype": np.dtype(form.dtype).name,
        "separate": form.separate,
        "source": form.source,
    }


def _input_from_json(entry: Mapping[str, Any]) -> InputFormat:
    return InputFormat(
        str(entry["name"]),
        tuple(int(n) for n in entry["shape"]),
        str(entry["type_rt"]),
        str(entry["layout_rt"]),
        str(entry["layout_graph"]),
        str(entry["space_and_range"]),
        np.dtype(str(entry["dtype"])),
        bool(entry["separate"]),
        str(entry["source"]),
    )


def graph_outputs(model: ir.Model) -> list[str]:
    """Names of the model's outputs, in order."""
    return [graph.value_name(v) for v in model.graph.outputs]
