"""modify: lists and removes head and tail nodes of a finished artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from hbtool.artifact.container import read_container
from hbtool.artifact.pack import is_packed
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.errors import ArtifactError, UsageError
from hbtool.flows.compile_stage import (
    COMPILE_OPTIONS,
    DELETED_NODES,
    QUANTIZED_SHA256,
    quantized_sha256,
    removed_nodes,
)
from hbtool.flows.talk import Quiet, Talk
from hbtool.ir import graph
from hbtool.ir.save import save_model
from hbtool.passes.remove_border_nodes import TAIL_TYPES, RemovedNode, removable, remove_border_nodes
from hbtool.passes.to_standard_onnx import to_standard_onnx
from hbtool.runtime.artifact import Artifact, load_artifact, save_artifact

TYPES = tuple(dict.fromkeys(("Quantize", *TAIL_TYPES)))


@dataclass(frozen=True)
class Modified:
    """What was done.

    Attributes:
        path: the new artifact.
        standard: its quantized ONNX.
        removed: what was removed now, in order.
        all_removed: what was ever removed from the model.
    """

    path: Path
    standard: Path
    removed: tuple[RemovedNode, ...]
    all_removed: tuple[RemovedNode, ...]


def removable_nodes(path: str | Path) -> tuple[RemovedNode, ...]:
    """The nodes that can be removed from an artifact now."""
    return removable(_single(path).model)


def modify(
    path: str | Path,
    names: Sequence[str] = (),
    types: Sequence[str] = (),
    output: str | Path | None = None,
    talk: Talk | None = None,
) -> Modified:
    """Write a copy of an artifact without some border nodes; names first, then types, each in its order.

    Raises:
        UsageError: a node is not there or cannot go, a type does not exist, nothing would change.
        ArtifactError: the file cannot be used, or is packed.
    """
    talk = talk or Quiet()
    if unknown := [t for t in types if t not in TYPES]:
        raise UsageError(f"{unknown[0]!r} nodes cannot be removed", hint=f"Types: {', '.join(TYPES)}.")
    artifact = _single(path)
    model = artifact.model.clone()
    removed: list[RemovedNode] = []
    for name in names:
        found = remove_border_nodes(model, [name])
        if not found:
            raise UsageError(f"{name!r} cannot be removed", hint=_why_not(artifact, name))
        removed += found
    removed += remove_border_nodes(model, (), types)
    if not removed:
        raise UsageError(
            "no node of the given types touches a model input or output", hint="List them without options."
        )
    for node in removed:
        talk.info(f"removed {node.type} {node.name} at {'input' if node.side == 'head' else 'output'} {node.value}")
    options = CompileOptions(**artifact.build.get(COMPILE_OPTIONS, {}))
    programs = {c.program.name: c for c in compile_model(model, artifact.target, options)}
    everything = (*removed_nodes(artifact), *removed)
    standard_model = to_standard_onnx(model)
    build = {
        **artifact.build,
        DELETED_NODES: [node.as_json() for node in everything],
        QUANTIZED_SHA256: quantized_sha256(standard_model),
    }
    shapes = {graph.value_name(v): v for v in model.graph.inputs}
    inputs = tuple(
        form
        if form.is_image
        else replace(form, shape=graph.static_shape(shapes[form.name]), dtype=_dtype(shapes[form.name]))
        for form in artifact.inputs
    )
    changed = replace(artifact, model=model, programs=programs, inputs=inputs, build=build)
    target = Path(output) if output is not None else Path(path).with_name(f"{Path(path).stem}_modified.bin")
    standard = save_model(
        standard_model, target.with_name(f"{target.with_suffix('').name}_quantized_removed_model.onnx")
    )
    return Modified(save_artifact(changed, target), standard, tuple(removed), everything)


def _dtype(value: ir.Value) -> str:
    return "float32" if value.dtype is None else str(value.dtype.numpy().name)


def _single(path: str | Path) -> Artifact:
    if is_packed(read_container(path)):
        raise ArtifactError(
            "this is a packed file", where=str(path), hint="Modify the single artifacts, and pack them afterwards."
        )
    return load_artifact(path)


def _why_not(artifact: Artifact, name: str) -> str:
    known = {graph.node_name(n) for n in artifact.model.graph}
    now = ", ".join(n.name for n in removable(artifact.model)) or "none"
    if name not in known:
        return f"The artifact has no such node. Removable now: {now}."
    return f"It does not touch a model input or output, or is of another type. Removable now: {now}."
