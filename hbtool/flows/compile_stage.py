"""From integers to an artifact: layer dump, batch, removed border nodes, compilation (or the cache), metadata."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import hbtool
from hbtool.artifact.container import Container, read_container, write_container
from hbtool.artifact.program import SegmentProgram
from hbtool.artifact.program_json import read_program, write_program
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.config.dump import dump
from hbtool.config.inputs import InputConfig
from hbtool.config.schema import LoadedConfig
from hbtool.errors import ArtifactError, ConfigError
from hbtool.flows.float_stage import FloatStage
from hbtool.flows.input_batch import check_batch_ahead, with_batch
from hbtool.flows.inputs import input_formats
from hbtool.flows.quantize_stage import QuantizeStage
from hbtool.flows.run_record import versions
from hbtool.flows.talk import Talk
from hbtool.ir.save import model_bytes, write_text
from hbtool.passes.expose_layers import expose_layers
from hbtool.passes.remove_border_nodes import RemovedNode, removable, remove_border_nodes
from hbtool.passes.to_standard_onnx import to_standard_onnx
from hbtool.runtime.artifact import Artifact
from hbtool.target.target import Target, to_json

DELETED_NODES = "deleted_nodes"
"""Key of `Artifact.build`: the removed head and tail nodes, in order of removal."""
QUANTIZED_SHA256 = "quantized_sha256"
"""Key of `Artifact.build`: hash of the quantized ONNX that was written with it."""
COMPILE_OPTIONS = "compile_options"
"""Key of `Artifact.build`: what the compiler was asked for."""


@dataclass(frozen=True)
class Finished:
    """The integers as they are shipped.

    Attributes:
        integer: what is compiled.
        standard: the quantized ONNX with every node (batch 1).
        removed_standard: the quantized ONNX without the removed nodes (batch 1), None where nothing was removed.
        removed: nodes whose work the application does.
        layers: outputs that `layer_out_dump` added.
    """

    integer: ir.Model
    standard: ir.Model
    removed_standard: ir.Model | None
    removed: tuple[RemovedNode, ...]
    layers: tuple[str, ...]


def finish_stage(stage: FloatStage, quantized: QuantizeStage, talk: Talk) -> Finished:
    """Apply layer_out_dump, input_batch, remove_node_name and remove_node_type.

    Raises:
        ConfigError: the model cannot run with input_batch.
    """
    model = stage.loaded.model_parameters
    integer, standard = quantized.quantized.integer, quantized.quantized.standard
    layers: tuple[str, ...] = ()
    if model.layer_out_dump:
        integer, layers = expose_layers(integer)
        standard = to_standard_onnx(integer)
        talk.warn(f"layer_out_dump adds {len(layers)} outputs; the artifact is slower and larger, for debugging only")
    if stage.loaded.compiler_parameters.optimize_level == "O0":
        talk.warn("optimize_level O0 switches the compiler's optimizations off; write O2 or O3 for what the board runs")
    single = integer.clone()
    removed = remove_nodes(single, stage.check.remove_node_name, model.remove_node_type, talk)
    batch = stage.loaded.input_parameters.input_batch
    if batch == 1:
        return Finished(single, standard, to_standard_onnx(single) if removed else None, removed, layers)
    whole = with_batch(stage, quantized, integer, expose=model.layer_out_dump)
    removed_whole = remove_nodes(whole, stage.check.remove_node_name, model.remove_node_type, None)
    talk.info(f"input_batch: the artifact takes {batch} images at once; the ONNX products keep batch 1")
    return Finished(whole, standard, to_standard_onnx(single) if removed else None, removed_whole, layers)


def remove_nodes(
    integer: ir.Model, names: Sequence[str], types: Sequence[str], talk: Talk | None
) -> tuple[RemovedNode, ...]:
    """Remove border nodes in place and say what went, what did not, and what could go now."""
    if not names and not types:
        return ()
    removed = remove_border_nodes(integer, names, types)
    if talk is None:
        return removed
    for node in removed:
        talk.info(f"removed {node.type} {node.name} at {'input' if node.side == 'head' else 'output'} {node.value}")
    gone = {n.name for n in removed}
    for name in names:
        if name not in gone:
            talk.warn(
                f"remove_node_name: {name} does not touch a model input or output (or is no removable type); it stays"
            )
    for type_ in dict.fromkeys(types):
        if all(n.type != type_ for n in removed):
            talk.info(f"remove_node_type: no {type_} touches a model input or output")
    for node in removable(integer):
        if node.type in types:
            talk.warn(
                f"{node.name} ({node.type}) touches {node.value} only now: name {node.type} once more at the end of "
                "remove_node_type to remove it too"
            )
    return removed


def check_ahead(stage: FloatStage) -> None:
    """What can be known before calibration of the things that happen after it.

    Raises:
        ConfigError: core_num or input_batch asks for what target or model cannot do.
    """
    cores = stage.loaded.compiler_parameters.core_num
    if cores > stage.target.cores:
        raise ConfigError(
            f"core_num: {cores} cores are asked for, {stage.target.march} has {stage.target.cores}.",
            where=str(stage.loaded.place("compiler_parameters", "core_num")),
            hint=f"Write at most {stage.target.cores}.",
        )
    if stage.loaded.input_parameters.input_batch > 1:
        check_batch_ahead(stage)


def build_artifact(stage: FloatStage, quantized: QuantizeStage, finished: Finished, talk: Talk) -> Artifact:
    """Compile and put everything together."""
    options = compile_options(stage.loaded)
    programs = compile_cached(finished.integer, stage.target, options, stage.paths.cache_dir, stage.loaded, talk)
    build = {
        "hbtool": hbtool.__version__,
        "versions": versions(),
        "platform": platform.platform(),
        "configuration": dump(stage.loaded.config),
        "model": str(stage.paths.onnx_model),
        "working_dir": str(stage.paths.working_dir),
        "inputs": [_input_json(config) for config in stage.check.inputs],
        "calibration_method": quantized.method,
        COMPILE_OPTIONS: asdict(options),
        DELETED_NODES: [node.as_json() for node in finished.removed],
        "model_sha256": model_sha256(stage),
        QUANTIZED_SHA256: quantized_sha256(finished.removed_standard or finished.standard),
    }
    formats = input_formats(finished.integer, stage.check.inputs)
    prefix = stage.loaded.model_parameters.output_model_file_prefix
    return Artifact(prefix, stage.target.march, stage.target, finished.integer, programs, formats, build)


def write_deleted_nodes(removed: Sequence[RemovedNode], folder: Path) -> Path:
    """deleted_nodes_info.txt: a line of JSON per node whose work the application does, with all its attributes."""
    lines = [json.dumps(node.as_json(), sort_keys=True) for node in removed]
    return write_text(folder / "deleted_nodes_info.txt", "".join(f"{line}\n" for line in lines))


def removed_nodes(artifact: Artifact) -> tuple[RemovedNode, ...]:
    """The nodes whose work the application does.

    Raises:
        ArtifactError: the entry is damaged.
    """
    try:
        return tuple(RemovedNode.from_json(entry) for entry in artifact.build.get(DELETED_NODES, ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"the list of deleted nodes is damaged: {error}", hint="Build the artifact again."
        ) from error


def _input_json(config: InputConfig) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}


def quantized_sha256(standard: ir.Model) -> str:
    """Hash of the quantized ONNX file as it is written."""
    return hashlib.sha256(model_bytes(standard)).hexdigest()


def model_sha256(stage: FloatStage) -> str:
    """Hash of the model file."""
    assert stage.paths.onnx_model is not None, "checked by prepare_float"
    return hashlib.sha256(stage.paths.onnx_model.read_bytes()).hexdigest()


def compile_options(loaded: LoadedConfig) -> CompileOptions:
    """The compiler's options of a configuration."""
    p = loaded.compiler_parameters
    return CompileOptions(
        optimize_level=p.optimize_level,
        compile_mode=p.compile_mode,
        balance_factor=p.balance_factor if p.balance_factor is not None else 0,
        core_num=p.core_num,
        max_time_per_fc=p.max_time_per_fc,
        jobs=p.jobs or os.cpu_count() or 1,
        input_no_padding=p.extra_params.get("input_no_padding") is True,
        output_no_padding=p.extra_params.get("output_no_padding") is True,
    )


def compile_cached(
    integer: ir.Model,
    target: Target,
    options: CompileOptions,
    cache: Path | None,
    loaded: LoadedConfig,
    talk: Talk,
) -> Mapping[str, SegmentProgram]:
    """Programs by segment name: from the cache where cache_mode allows it and the same was compiled before."""
    if cache is None:
        return {c.program.name: c for c in compile_model(integer, target, options)}
    file = cache / f"{_cache_key(integer, target, options)}.hbcache"
    if loaded.compiler_parameters.cache_mode == "enable" and file.is_file():
        try:
            found = _read_cache(file)
            talk.info(f"compile cache: {len(found)} segments taken from {file}")
            return found
        except ArtifactError as error:
            talk.warn(f"compile cache: {error}; compiled anew")
    programs = {c.program.name: c for c in compile_model(integer, target, options)}
    tensors: dict[str, np.ndarray] = {}
    for name, compiled in programs.items():
        tensors[f"program/{name}"] = np.frombuffer(write_program(compiled.program).encode(), np.uint8)
        tensors[f"weights/{name}"] = np.frombuffer(compiled.weights, np.uint8)
    write_container(file, Container({"cache": True}, tensors))
    talk.info(f"compile cache: stored {len(programs)} segments in {file}")
    return programs


def _cache_key(integer: ir.Model, target: Target, options: CompileOptions) -> str:
    # jobs changes how long compiling takes, not its result.
    facts = {k: v for k, v in asdict(options).items() if k != "jobs"}
    text = json.dumps([hbtool.__version__, to_json(target), facts], sort_keys=True)
    digest = hashlib.sha256(ir.to_proto(integer).SerializeToString(deterministic=True))
    digest.update(text.encode())
    return digest.hexdigest()[:32]


def _read_cache(file: Path) -> dict[str, SegmentProgram]:
    container = read_container(file)
    found = {}
    for key, text in container.tensors.items():
        name = key.removeprefix("program/")
        if name == key:
            continue
        weights = container.tensors.get(f"weights/{name}")
        program = read_program(text.tobytes(), f"{file} ({key})")
        found[name] = SegmentProgram(program, b"" if weights is None else weights.tobytes())
    return found
