"""ONNX files of a model at each stage: float, calibrated, QAT (standard Q/DQ), fixed point (integer operators)."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from hbtool.errors import UsageError
from hbtool.passes.to_standard_onnx import to_standard_onnx
from hbtool.quantization import onnx_graph
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.quantization.program import program_of
from hbtool.quantization.repeat_qdq import repeat_qdq

_log = logging.getLogger(__name__)


def _tensors(args: Any) -> tuple[Tensor, ...]:
    given = (args,) if isinstance(args, Tensor) else tuple(args)
    if given and given[-1] == {}:
        given = given[:-1]
    if not given or not all(isinstance(a, Tensor) for a in given):
        raise UsageError("args must be a tensor or a tuple of tensors.", where="export_to_onnx")
    return given


def _check_opset(opset_version: int | None) -> None:
    if opset_version in (None, 11, onnx_graph.OPSET):
        if opset_version == 11:
            _log.info("writing opset %d: per-channel and int16 Q/DQ need it (11 was asked for)", onnx_graph.OPSET)
        return
    raise UsageError(
        f"opset_version is {opset_version}.",
        where="export_to_onnx",
        hint=f"Leave it out: the file has opset {onnx_graph.OPSET}, the first with int16 QuantizeLinear.",
    )


def _write(model: ir.Model, f: Any, check: bool) -> None:
    """Serialize beside the target, then rename: nothing half-written stays."""
    proto = ir.to_proto(model)
    if check:
        onnx.checker.check_model(proto, full_check=True)
    data = proto.SerializeToString()
    if hasattr(f, "write"):
        f.write(data)
        return
    path = Path(os.fspath(f))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def export_to_onnx(
    model: nn.Module,
    args: Any,
    f: Any,
    export_params: bool = True,
    verbose: bool = False,
    training: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    operator_export_type: Any = None,
    opset_version: int | None = 11,
    do_constant_folding: bool = True,
    example_outputs: Any = None,
    strip_doc_string: bool = True,
    dynamic_axes: dict[str, Any] | None = None,
    keep_initializers_as_inputs: bool | None = None,
    custom_opsets: dict[str, int] | None = None,
    enable_onnx_checker: bool = False,
) -> None:
    """Write a float, calibrated or QAT model as standard ONNX; fake quantizers become Q/DQ pairs.

    Stock onnxruntime runs the file, and the mapper reads it with `calibration_type: load`. Every node carries the path
    of its torch module (`hbtool.torch_module` in its metadata) and is named `<path>/<operator>`.

    Args:
        model: the model; it is not changed and exported in eval mode.
        args: a tensor or a tuple of tensors.
        f: path or writable binary file.
        export_params: must be True.
        verbose: log the nodes.
        training: accepted for compatibility.
        input_names: names of the inputs.
        output_names: names of the outputs.
        operator_export_type: accepted for compatibility; only standard operators are written.
        opset_version: 11 (as scripts say) or None; the file has the opset that Q/DQ needs.
        do_constant_folding: accepted for compatibility.
        example_outputs: accepted for compatibility.
        strip_doc_string: accepted for compatibility; no source paths are ever written.
        dynamic_axes: input name -> axes (a list or a dict axis -> name) that may vary.
        keep_initializers_as_inputs: accepted for compatibility.
        custom_opsets: accepted for compatibility.
        enable_onnx_checker: run the full ONNX checker before writing.

    Raises:
        UsageError: arguments that cannot be honoured.
        ModelError: torch cannot export the model.
    """
    if isinstance(model, QuantizedGraphModule):
        raise UsageError("this is a fixed-point model.", where="export_to_onnx", hint="Use export_quantized_onnx.")
    if not export_params:
        raise UsageError("a model without parameters is of no use.", where="export_to_onnx", hint="Drop export_params.")
    _check_opset(opset_version)
    tensors = _tensors(args)
    dynamic = _dynamic_shapes(dynamic_axes, input_names, len(tensors))
    exported = onnx_graph.export(model, tensors, input_names, output_names, dynamic)
    repeat_qdq(exported)
    exported.metadata_props.clear()
    if verbose:
        for node in exported.graph:
            _log.info("%s %s", node.op_type, node.name)
    _write(exported, f, enable_onnx_checker)


def _dynamic_shapes(axes: dict[str, Any] | None, names: Sequence[str] | None, count: int) -> Any:
    if not axes:
        return None
    unknown = [n for n in axes if not names or n not in names]
    # Outputs may be listed too; their axes follow from the inputs'.
    if names is None or all(n in unknown for n in axes):
        raise UsageError(
            "dynamic_axes names no input.",
            where="export_to_onnx",
            hint="Give input_names and use them in dynamic_axes.",
        )
    shapes: list[Any] = []
    for name in list(names)[:count]:
        spec = axes.get(name, {})
        shapes.append({int(a): torch.export.Dim.AUTO for a in spec} or None)
    return tuple(shapes)


def export_quantized_onnx(
    model: nn.Module,
    args: Any,
    f: Any,
    export_params: bool = True,
    verbose: bool = False,
    training: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    operator_export_type: Any = None,
    opset_version: int | None = None,
    **ignored: Any,
) -> None:
    """Write a fixed-point model (or a trace of one) as ONNX with integer operators; stock onnxruntime runs it.

    The outputs are bit for bit those of the module.

    Raises:
        UsageError: the model was not converted.
    """
    graph = integer_graph_of(model, _tensors(args))
    standard = to_standard_onnx(graph)
    for values, names in ((standard.graph.inputs, input_names), (standard.graph.outputs, output_names)):
        for value, name in zip(values, names or (), strict=False):
            value.name = name
    _write(standard, f, bool(ignored.get("enable_onnx_checker", False)))


def integer_graph_of(model: nn.Module, args: Sequence[Tensor]) -> ir.Model:
    """The INTEGER graph inside a converted model or a trace of one.

    Raises:
        UsageError: it is neither, or the trace computes more than the fixed-point model.
    """
    if isinstance(model, QuantizedGraphModule):
        return model.integer_graph(*args)
    if not isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            f"{type(model).__name__} is no fixed-point model.", hint="Pass the result of convert_fx or its trace."
        )
    graph = model.inlined_graph
    programs = [n for n in graph.nodes() if n.kind() == "hbtool::integer_program"]
    others = {n.kind() for n in graph.nodes()} - {
        "hbtool::integer_program", "prim::Constant", "prim::ListConstruct", "prim::ListUnpack", "prim::TupleConstruct",
        "prim::GetAttr", "prim::DictConstruct",
    }  # fmt: skip
    if len(programs) != 1 or others:
        raise UsageError(
            f"the traced model computes {', '.join(sorted(others)) or 'several fixed-point models'} besides one "
            "fixed-point model.",
            hint="Trace the result of convert_fx itself.",
        )
    source = list(programs[0].inputs())[1].node()
    data = source.t("value") if source.hasAttribute("value") else getattr(model, source.s("name"))
    return program_of(data).model
