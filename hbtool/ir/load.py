"""From an ONNX file to the FLOAT graph: readable, valid, one operator set, known shapes, finite weights.

After `load_model` every later stage may rely on: opset 21 or newer, no local functions of unknown domains, every node
and value named, initializers not listed as inputs, shapes inferred as far as ONNX can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import version_converter
from onnx_ir.passes import common

from hbtool.errors import ModelError, UnsupportedError
from hbtool.ir import graph

OPSET = 21
"""Oldest operator set of a FLOAT graph: the first whose QuantizeLinear knows int16."""

OLDEST_OPSET = 7
"""Older files cannot be converted by ONNX's version converter."""


def load_model(path: str | Path, input_shapes: Mapping[str, Sequence[int]] | None = None) -> ir.Model:
    """Read an ONNX file.

    Args:
        path: the file; external data are looked for beside it.
        input_shapes: shapes for inputs with free dimensions, by input name; they win over the file's.

    Raises:
        ModelError: missing, not ONNX, truncated, invalid, free dimensions without a shape, NaN in weights.
    """
    return prepare_model(read_proto(path), str(path), input_shapes)


def prepare_model(
    proto: onnx.ModelProto, where: str, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> ir.Model:
    """The FLOAT graph of a model in memory; `where` names it in messages."""
    _check_opset(proto, where)
    proto = _copy(proto)
    _drop_constant_inputs(proto)
    # Before version 4 constants had to be inputs, too; now they are not, and nothing else of the old form is left.
    proto.ir_version = max(proto.ir_version, 4)
    _set_input_shapes(proto, where, input_shapes or {})
    # Stated inner shapes may belong to other input shapes; they are inferred anew.
    del proto.graph.value_info[:]
    _complete_outputs(proto, where)
    _check(proto, where)
    proto = _convert_opset(proto)
    model = ir.from_proto(_infer(proto, where))
    common.InlinePass()(model)
    common.RemoveInitializersFromInputsPass()(model)
    common.NameFixPass()(model)
    _lift_constants(model)
    _name_everything(model)
    _refuse_nan(model, where)
    return model


def infer_shapes(model: ir.Model, where: str = "the model") -> None:
    """Write the shapes and types of every value of the main graph, as far as ONNX can infer them, in place."""
    inferred = _infer(ir.to_proto(model), where)
    found = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}
    for node in model.graph:
        for value in node.outputs:
            info = found.get(value.name)
            if info is None or not info.type.HasField("tensor_type"):
                continue
            tensor = info.type.tensor_type
            if tensor.elem_type:
                value.dtype = ir.DataType(tensor.elem_type)
            if tensor.HasField("shape"):
                value.shape = ir.Shape(
                    [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
                )


def read_proto(path: str | Path) -> onnx.ModelProto:
    """The file as it is, after checks that it is ONNX at all.

    Raises:
        ModelError: missing, a folder, not ONNX, truncated, external data missing.
    """
    file = Path(path)
    if not file.exists():
        raise ModelError("the model file does not exist", where=str(file), hint="Check onnx_model (or --model).")
    if file.is_dir():
        raise ModelError("this is a folder, not an ONNX file", where=str(file), hint="Name the .onnx file in it.")
    data = file.read_bytes()
    size = f"{len(data)} bytes"
    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(
            f"this is not an ONNX file, or it is truncated ({size})",
            where=str(file),
            hint="Copy or export the file again.",
        ) from error
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(
            f"the file holds no ONNX graph with nodes and outputs ({size})",
            where=str(file),
            hint="Copy or export the file again.",
        )
    try:
        onnx.external_data_helper.load_external_data_for_model(proto, str(file.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"weights stored beside the model cannot be read: {error}",
            where=str(file),
            hint="Keep the external data file in the model's folder.",
        ) from error
    return proto


def read_functions(path: str | Path) -> list[onnx.FunctionProto]:
    """The functions that an ONNX file defines; it needs no graph.

    Raises:
        ModelError: not ONNX.
    """
    try:
        return list(onnx.load_model_from_string(Path(path).read_bytes()).functions)
    except DecodeError as error:
        raise ModelError("this is not an ONNX file, or it is truncated", where=str(path)) from error


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _check_opset(proto: onnx.ModelProto, where: str) -> None:
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), None)
    newest = onnx.defs.onnx_opset_version()
    if version is None or OLDEST_OPSET <= version <= newest:
        return
    raise UnsupportedError(
        f"the model uses opset {version}, hbtool reads {OLDEST_OPSET} to {newest}",
        where=where,
        hint="Export it with opset 11 to 21.",
    )


def _drop_constant_inputs(proto: onnx.ModelProto) -> None:
    """IR version 3 lists initializers as inputs too."""
    constants = {t.name for t in proto.graph.initializer}
    kept = [i for i in proto.graph.input if i.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


def _set_input_shapes(proto: onnx.ModelProto, where: str, shapes: Mapping[str, Sequence[int]]) -> None:
    names = [i.name for i in proto.graph.input]
    if unknown := sorted(set(shapes) - set(names)):
        raise ModelError(
            f"a shape was given for {unknown[0]!r}, which is not an input",
            where=where,
            hint=f"Inputs: {', '.join(names)}.",
        )
    changed = False
    for value in proto.graph.input:
        if not value.type.HasField("tensor_type"):
            continue
        dims = value.type.tensor_type.shape.dim
        given = shapes.get(value.name)
        if given is None:
            free = [f"{i} ({d.dim_param})" if d.dim_param else str(i) for i, d in enumerate(dims) if not d.dim_value]
            if free:
                raise ModelError(
                    f"input {value.name!r} has free dimensions: {', '.join(free)}",
                    where=where,
                    hint=f"Give all sizes: input_shape: '{'x'.join(str(d.dim_value or 1) for d in dims)}' "
                    f"(or --input-shape {value.name} ...).",
                )
            continue
        if len(given) != len(dims) and len(dims):
            raise ModelError(
                f"input {value.name!r} has {len(dims)} dimensions, input_shape gives {len(given)}", where=where
            )
        changed |= [d.dim_value for d in dims] != list(given)
        value.type.tensor_type.shape.ClearField("dim")
        for size in given:
            value.type.tensor_type.shape.dim.add().dim_value = int(size)
    if changed:
        for output in proto.graph.output:
            for dim in output.type.tensor_type.shape.dim:
                dim.Clear()


def _complete_outputs(proto: onnx.ModelProto, where: str) -> None:
    """Outputs stated without a type or shape, which runtimes accept and the checker does not, get the inferred one."""
    incomplete = [o for o in proto.graph.output if not o.type.tensor_type.HasField("shape")]
    if not incomplete:
        return
    inferred = {o.name: o for o in _infer(proto, where).graph.output}
    for output in incomplete:
        output.type.CopyFrom(inferred[output.name].type)


def _check(proto: onnx.ModelProto, where: str) -> None:
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "invalid")
        domains = {n.domain for n in proto.graph.node} - {o.domain for o in proto.opset_import}
        hint = "Export the model again, or report it to the exporter."
        if domains - {"", "ai.onnx"}:
            hint = f"Operators of the domain {', '.join(sorted(domains))} need custom_op."
        raise ModelError(f"the model is not valid ONNX: {first}", where=where, hint=hint) from error


def _convert_opset(proto: onnx.ModelProto) -> onnx.ModelProto:
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), OPSET)
    if version >= OPSET:
        return proto
    if proto.functions:
        # The converter would drop the bodies of local functions.
        proto = onnx.inliner.inline_local_functions(proto)
    try:
        converted: onnx.ModelProto = version_converter.convert_version(proto, OPSET)
    except Exception as error:
        raise UnsupportedError(
            f"the model's opset {version} cannot be converted to {OPSET}: {str(error).splitlines()[0]}",
            hint="Export the model with a newer opset.",
        ) from error
    # The converter renumbers nothing but may lose metadata of nodes.
    return converted


def _infer(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    try:
        inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)
    except Exception as error:
        raise ModelError(
            f"the shapes of the graph contradict each other: {str(error).splitlines()[0]}",
            where=where,
            hint="Export the model again; check input_shape.",
        ) from error
    return inferred


def _lift_constants(model: ir.Model) -> None:
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _name_everything(model: ir.Model) -> None:
    """Nodes without a name take their operator and number, as exporters do."""
    taken = {n.name for n in model.graph}
    counts: dict[str, int] = {}
    for node in model.graph:
        if not node.name:
            number = counts.get(node.op_type, 0)
            while f"{node.op_type}_{number}" in taken:
                number += 1
            counts[node.op_type] = number + 1
            node.name = f"{node.op_type}_{number}"
            taken.add(node.name)


def _refuse_nan(model: ir.Model, where: str) -> None:
    for name, value in model.graph.initializers.items():
        if value.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16):
            continue
        array = graph.constant(value)
        # Whole tensors of infinities are masks; single ones among finite weights are as legal as NaN is not.
        if array is not None and np.isnan(array).any():
            users = ", ".join(graph.node_name(n) for n in graph.consumers(value)[:3])
            raise ModelError(
                f"the weights {name!r} hold NaN ({int(np.isnan(array).sum())} of {array.size}), used by {users}",
                where=where,
                hint="The training diverged or the export is damaged; export a healthy checkpoint.",
            )
