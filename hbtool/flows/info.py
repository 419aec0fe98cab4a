"""info: what an artifact was built from and what it takes and gives, in the order hb_model_info prints it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from hbtool.artifact.container import read_container
from hbtool.artifact.pack import model_names
from hbtool.config.loader import parse_config
from hbtool.config.schema import Config
from hbtool.errors import HbError
from hbtool.flows.compile_stage import COMPILE_OPTIONS, removed_nodes
from hbtool.ir.load import read_proto
from hbtool.passes.remove_border_nodes import RemovedNode
from hbtool.runtime.artifact import load_artifact
from hbtool.runtime.removed import formula
from hbtool.runtime.session import NodeArg, described_inputs, described_outputs


@dataclass(frozen=True)
class ModelInfo:
    """What is known of one model.

    Attributes:
        name: model name.
        groups: (title, (key, value) pairs) in order.
        inputs: what the application feeds.
        outputs: what it gets.
        removed: nodes whose work the application does, in order of removal.
        packed_with: names of all models of the file.
    """

    name: str
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    inputs: tuple[NodeArg, ...]
    outputs: tuple[NodeArg, ...]
    removed: tuple[RemovedNode, ...]
    packed_with: tuple[str, ...]


def formulas(removed: Sequence[RemovedNode]) -> list[str]:
    """What the application does instead of each removed node, one line of numpy."""
    return [formula(node) for node in removed]


@dataclass(frozen=True)
class OnnxInfo:
    """What an ONNX file (a stage file, or the user's model) says of itself.

    Attributes:
        facts: (key, value) pairs.
        inputs: (name, type, shape) of every input that is no constant.
        outputs: the same.
    """

    facts: tuple[tuple[str, str], ...]
    inputs: tuple[tuple[str, str, str], ...]
    outputs: tuple[tuple[str, str, str], ...]


def onnx_info(path: Path) -> OnnxInfo:
    """Read what an ONNX file declares.

    Raises:
        ModelError: not ONNX.
    """
    proto = read_proto(path)
    constants = {tensor.name for tensor in proto.graph.initializer}
    opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in proto.opset_import)
    producer = f"{proto.producer_name} {proto.producer_version}".strip() or "unknown"
    facts = (
        ("file", str(path)),
        ("producer", producer),
        ("ir_version", str(proto.ir_version)),
        ("opset", opsets),
        ("nodes", str(len(proto.graph.node))),
        ("constants", str(len(constants))),
    )
    inputs = tuple(_declared(v) for v in proto.graph.input if v.name not in constants)
    return OnnxInfo(facts, inputs, tuple(_declared(v) for v in proto.graph.output))


def _declared(value: onnx.ValueInfoProto) -> tuple[str, str, str]:
    tensor = value.type.tensor_type
    sizes = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    return value.name, onnx.TensorProto.DataType.Name(tensor.elem_type).lower(), "x".join(sizes)


def names_in(path: str | Path) -> tuple[str, ...]:
    """Names of the models in a file."""
    return model_names(read_container(path))


def info(path: str | Path, name: str | None = None) -> ModelInfo:
    """Read the metadata of an artifact; `name` chooses one of a packed file.

    Raises:
        ArtifactError, UsageError: the file cannot be used, or the name is needed or wrong.
    """
    artifact = load_artifact(path, name)
    config = _config(artifact.build)
    groups = [
        ("dependency versions", tuple(_versions(artifact.build))),
        ("model parameters", tuple(_model(artifact.build, config, artifact.march, artifact.name))),
    ]
    for entry in _inputs(artifact.build):
        groups.append((f"input {entry.get('name', '?')}", tuple(_input(entry))))
    groups.append(("calibration", tuple(_calibration(artifact.build, config))))
    groups.append(("compiler", tuple(_compiler(artifact.build, config))))
    return ModelInfo(
        artifact.name,
        tuple(groups),
        tuple(described_inputs(artifact)),
        tuple(described_outputs(artifact)),
        removed_nodes(artifact),
        names_in(path),
    )


def _config(build: Mapping[str, Any]) -> Config | None:
    try:
        return parse_config(str(build.get("configuration", ""))).config
    except HbError:
        return None  # an artifact that was not made from a config.yaml


def _versions(build: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    versions = build.get("versions", {})
    for key in sorted(versions, key=lambda k: (k != "hbtool", k)) if isinstance(versions, Mapping) else ():
        yield key, str(versions[key])


def _model(build: Mapping[str, Any], config: Config | None, march: str, name: str) -> Iterator[tuple[str, str]]:
    yield "onnx_model", str(build.get("model", "unknown"))
    yield "march", march
    if config is not None:
        yield "layer_out_dump", str(config.model_parameters.layer_out_dump)
        yield "log_level", str(config.model_parameters.log_level or "fixed (console INFO, file all)")
    yield "working_dir", str(build.get("working_dir", "unknown"))
    yield "output_model_file_prefix", name
    yield "model_sha256", str(build.get("model_sha256", "unknown"))


def _inputs(build: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    entries = build.get("inputs", ())
    yield from (e for e in entries if isinstance(e, Mapping)) if isinstance(entries, list) else ()


def _input(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    keys = {
        "input_name": "name",
        "input_type_rt": "type_rt",
        "input_space_and_range": "space_and_range",
        "input_layout_rt": "layout_rt",
        "input_type_train": "type_train",
        "input_layout_train": "layout_train",
        "norm_type": "norm_type",
        "input_shape": "shape",
        "mean_value": "mean",
        "scale_value": "scale",
        "std_value": "std",
        "cal_data_dir": "cal_data_dir",
        "cal_data_type": "cal_data_type",
        "input_batch": "batch",
    }
    for label, key in keys.items():
        value = entry.get(key)
        if value is None and key in ("std",):
            continue
        joiner = "x" if key == "shape" else " "
        yield (
            label,
            joiner.join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
            if isinstance(value, list)
            else str(value),
        )


def _calibration(build: Mapping[str, Any], config: Config | None) -> Iterator[tuple[str, str]]:
    if config is not None:
        c = config.calibration_parameters
        yield "preprocess_on", str(c.preprocess_on)
        yield "calibration_type", c.calibration_type
    yield "method", str(build.get("calibration_method", "unknown"))
    if config is not None:
        yield "optimization", ",".join(c.optimization.flags) or "none"
        yield "per_channel", str(c.per_channel)


def _compiler(build: Mapping[str, Any], config: Config | None) -> Iterator[tuple[str, str]]:
    if config is not None:
        yield "debug", str(config.compiler_parameters.debug)
    options = build.get(COMPILE_OPTIONS, {})
    if isinstance(options, Mapping):
        yield from ((str(k), str(v)) for k, v in options.items())
    sources = {str(e.get("name")): e.get("source", "ddr") for e in _inputs(build)}
    yield "input_source", str({**sources, "_default_value": "ddr"})
