"""What the parts of an artifact must be before anything is built from them.

Nothing outside the file, nothing undefined, no absurd size, and programs that belong to the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir

from hbtool.artifact.program import Program, Region
from hbtool.compiler.segments import Segment
from hbtool.errors import ArtifactError
from hbtool.ir import graph, meta
from hbtool.ops.op import integer_op, is_integer, read_attributes
from hbtool.target.target import Target

LARGEST_VALUE_BYTES = 1 << 30
SLACK_BYTES = 1 << 20


def check_proto(proto: onnx.ModelProto, where: str) -> None:
    """Refuse graphs that name data in other files, or values that nobody defines.

    Raises:
        ArtifactError: what is wrong.
    """
    _check_scope(proto.graph, frozenset(), where)
    for function in proto.functions:
        known = _check_nodes(function.node, set(function.input), where)
        _check_outputs(function.output, known, where)


def _check_scope(part: onnx.GraphProto, outside: frozenset[str], where: str) -> None:
    if part.sparse_initializer:
        raise ArtifactError("the graph has sparse constants", where=where)
    for tensor in part.initializer:
        _check_inside(tensor, where)
    known = {*outside, *(v.name for v in part.input), *(t.name for t in part.initializer)}
    _check_outputs([v.name for v in part.output], _check_nodes(part.node, known, where), where)


def _check_outputs(names: Iterable[str], known: set[str], where: str) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ArtifactError(f"nothing gives the output {unknown[0]!r}", where=where)


def _check_nodes(nodes: Iterable[onnx.NodeProto], known: set[str], where: str) -> set[str]:
    """Nodes in order, each reading what is known by then; returns what is known in the end."""
    for node in nodes:
        if unknown := [name for name in node.input if name and name not in known]:
            raise ArtifactError(f"node {node.name!r} reads {unknown[0]!r}, which nothing before it gives", where=where)
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                _check_inside(tensor, where)
            for inner in (attribute.g, *attribute.graphs):
                _check_scope(inner, frozenset(known), where)
        known |= set(node.output)
    return known


def _check_inside(tensor: onnx.TensorProto, where: str) -> None:
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ArtifactError(f"the data of {tensor.name!r} lie in another file", where=where)


def check_graph(model: ir.Model, where: str) -> None:
    """Read every fact that the runtime will read.

    Raises:
        ArtifactError: a value is absurdly large, or an operator unknown.
        Exception: whatever reading a damaged fact raises (the caller says that the graph cannot be read).
    """
    values = [*model.graph.inputs, *model.graph.outputs]
    for node in model.graph:
        values += node.outputs
        if is_integer(node):
            integer_op(node)
            read_attributes(node)
    for value in values:
        meta.qparams(value)
        if _bytes(value) > LARGEST_VALUE_BYTES:
            raise ArtifactError(
                f"{value.name!r} would take {_bytes(value)} bytes, more than {LARGEST_VALUE_BYTES}", where=where
            )


def check_program(program: Program, segment: Segment, target: Target, where: str) -> None:
    """Hold a program against the segment of the graph that it computes.

    Raises:
        ArtifactError: other inputs, outputs or memories than the graph and the target ask for.
    """
    place = f"{where}, {segment.name}"
    for regions, values in ((program.inputs, segment.inputs), (program.outputs, segment.outputs)):
        found = {r.name: _region_facts(r) for r in regions}
        if found != {graph.value_name(v): _facts(v) for v in values}:
            raise ArtifactError("the program has other inputs or outputs than the graph", where=place)
    if program.cores > target.cores or program.onchip_bytes != target.onchip_bytes * program.cores:
        raise ArtifactError("the program was compiled for another machine than the target says", where=place)
    largest_padding = max(width * channels for width, channels in target.layouts)
    values_bytes = sum(map(_bytes, _values(segment)))
    stored = sum(r.bytes for r in program.regions if r.kind != "weights")
    if stored > largest_padding * values_bytes + SLACK_BYTES:
        raise ArtifactError(
            f"the program asks for {stored} bytes of DDR, the values of its segment have {values_bytes}", where=place
        )


def _values(segment: Segment) -> Iterator[ir.Value]:
    yield from segment.inputs
    for node in segment.nodes:
        yield from node.outputs


def _facts(value: ir.Value) -> tuple[tuple[int, ...], str]:
    return graph.static_shape(value), "" if value.dtype is None else str(value.dtype.numpy())


def _region_facts(region: Region) -> tuple[tuple[int, ...], str]:
    assert region.view is not None, "inputs and outputs have a view"
    return region.view.shape, region.view.type


def _bytes(value: ir.Value) -> int:
    shape = graph.known_shape(value)
    return 0 if shape is None or value.dtype is None else math.prod(shape) * math.ceil(value.dtype.itemsize)
