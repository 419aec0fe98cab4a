"""A torch model as one ONNX graph with standard QuantizeLinear / DequantizeLinear where it has fake quantizers.

The key `hbtool.torch_module` (see `hbtool.ir.meta`) of every node holds the path of the torch module it comes from;
node names are `<module path>/<operator>`, so that both stay the same when other parts of the model change.
"""

from __future__ import annotations

import ast
import copy
import json
import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript
import torch
from torch import Tensor, nn

from hbtool.errors import ModelError
from hbtool.ir import graph, meta
from hbtool.nn.qat.weighted import Weighted
from hbtool.quantization.fake_quantize import FakeQuantizeBase, FakeQuantState
from hbtool.quantization.straight_through import fake_quantize_op

OPSET = 21
"""The first opset with int16 QuantizeLinear."""

_DOMAIN = "hbtool.export"
_QUANTIZERS = "hbtool.fake_quantizers"
_NOISE = ("pkg.torch", "pkg.onnxscript", "namespace")


_PARAMETER = onnx.defs.OpSchema.FormalParameter
_SCHEMA = onnx.defs.OpSchema(
    "FakeQuantize",
    _DOMAIN,
    1,
    inputs=[_PARAMETER("x", "tensor(float)"), _PARAMETER("scale", "tensor(float)")],
    outputs=[_PARAMETER("y", "tensor(float)")],
    attributes=[
        onnx.defs.OpSchema.Attribute(name, onnx.defs.OpSchema.AttrType.INT, "")
        for name in ("bits", "quant_min", "quant_max", "axis")
    ],
)
_MARK = onnxscript.values.Op(onnxscript.values.Opset(_DOMAIN, 1), "FakeQuantize", _SCHEMA)


def _translate(x: Any, scale: Any, bits: int, quant_min: int, quant_max: int, axis: int) -> Any:
    """One node with everything a Q/DQ pair needs to be written; never leaves this module."""
    return _MARK(x, scale, bits=bits, quant_min=quant_min, quant_max=quant_max, axis=axis)


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """One node: torch's threshold only avoids an overflow that Softplus does not have."""
    if beta == 1.0:
        return _ONNX.Softplus(x)
    factor = _ONNX.Constant(value_float=float(beta))
    return _ONNX.Div(_ONNX.Softplus(_ONNX.Mul(x, factor)), factor)


def _clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    """One Clip, also where a bound is missing."""
    bounds = [None if v is None else _ONNX.Constant(value_float=float(v)) for v in (low, high)]
    return _ONNX.Clip(x, *bounds)


def _pad(x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Pad; repeated borders as a selection of rows and columns (the BPU moves integers, it has no such mode of Pad)."""
    shape = [int(n) for n in x.shape]
    rank = len(shape)
    if mode == "replicate":
        for index in range(len(pad) // 2):
            size = shape[rank - 1 - index]
            places = np.arange(-pad[2 * index], size + pad[2 * index + 1]).clip(0, size - 1)
            x = _ONNX.Gather(x, _ONNX.Constant(value_ints=places.tolist()), axis=rank - 1 - index)
        return x
    unpadded = [0] * (rank - len(pad) // 2)
    pads = [*unpadded, *reversed(pad[::2]), *unpadded, *reversed(pad[1::2])]
    fill = [_ONNX.Constant(value_float=float(value or 0.0))] if mode == "constant" else []
    return _ONNX.Pad(x, _ONNX.Constant(value_ints=pads), *fill, mode={"circular": "wrap"}.get(mode, mode))


_ONNX: Any = onnxscript.opset21
_TRANSLATIONS: dict[Any, Any] = {
    torch.ops.hbtool.fake_quantize.default: _translate,
    torch.ops.aten.softplus.default: _softplus,
    torch.ops.aten.clamp.default: _clamp,
    torch.ops.aten.pad.default: _pad,
}


def export(
    model: nn.Module,
    args: Sequence[Tensor],
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_shapes: Any = None,
) -> ir.Model:
    """The graph of a float, calibrated or QAT model in eval mode, scales as they are now; `model` is not changed.

    Args:
        model: any module `torch.export` accepts.
        args: example inputs; their shapes become the graph's.
        input_names: names of the graph inputs, forward's by default.
        output_names: names of the graph outputs, `output_0`, ... by default.
        dynamic_shapes: as `torch.export`.

    Raises:
        ModelError: torch cannot export the model.
    """
    frozen = copy.deepcopy(model).eval()
    for module in frozen.modules():
        if isinstance(module, Weighted):
            module.absorb_bn()
    for module in frozen.modules():
        if isinstance(module, FakeQuantizeBase):
            module.set_state(FakeQuantState.VALIDATION)
            # Reads the flags once: under export they are constants.
            module.flags()
    exported = _exported(frozen, tuple(args), input_names, output_names, dynamic_shapes)
    _name(exported)
    _note_quantizers(exported, frozen)
    _write_qdq(exported)
    _clean(exported)
    return exported


def _exported(model: nn.Module, args: tuple[Any, ...], inputs: Any, outputs: Any, dynamic: Any) -> ir.Model:
    noisy = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [log.level for log in noisy]
    for log in noisy:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                args,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs) if inputs else None,
                output_names=list(outputs) if outputs else None,
                dynamic_shapes=dynamic,
                custom_translation_table=_TRANSLATIONS,
                verbose=False,
            )
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        first = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise ModelError(
            f"torch cannot export the model to ONNX: {first}",
            where=type(model).__name__,
            hint="Check that forward returns tensors only and uses operators that ONNX has.",
        ) from error
    finally:
        for log, level in zip(noisy, levels, strict=True):
            log.setLevel(level)
    assert program is not None, "the exporter returns a program"
    return program.model


def _module_path(node: ir.Node) -> str:
    text = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
    scopes = [s for s in ast.literal_eval(text) if s]
    return str(scopes[-2]) if len(scopes) > 1 else ""


def _name(model: ir.Model) -> None:
    """Stable node and value names, torch paths as metadata."""
    counts: Counter[str] = Counter()
    outputs = {id(v) for v in model.graph.outputs}
    for node in model.graph:
        path = _module_path(node)
        stem = f"{path}/{node.op_type}" if path else node.op_type
        node.name = f"{stem}_{counts[stem]}" if counts[stem] else stem
        counts[stem] += 1
        if path:
            meta.set_torch_module(node, path)
        for index, value in enumerate(node.outputs):
            if id(value) not in outputs:
                value.name = f"{node.name}_output_{index}"


def _note_quantizers(model: ir.Model, source: nn.Module) -> None:
    """Which value each module's fake quantizer rounds, in the order of the calls: `quantized_values` reads it."""
    rows = []
    for node in model.graph:
        if node.domain != _DOMAIN or node.inputs[0] is None or graph.constant(node.inputs[0]) is not None:
            continue
        # The pair on an output of the model leaves the output's name.
        rounded = node.outputs[0] if node.outputs[0].is_graph_output() else node.inputs[0]
        rows.append((meta.torch_module(node) or "", rounded.name))
    calls: Counter[str] = Counter()
    kept = []
    for path, name in rows:
        calls[path] += 1
        if calls[path] % _values_per_call(source.get_submodule(path)) == 0:
            kept.append((path, name))
    model.metadata_props[_QUANTIZERS] = json.dumps(kept)


def _values_per_call(module: nn.Module) -> int:
    """Values that one call of a module rounds; its result is the last."""
    if isinstance(module, Weighted):
        # A fused sum rounds its own operand first.
        return 2 if module.has_add and module.activation_post_process is not None else 1
    return max(1, sum(isinstance(m, FakeQuantizeBase) for m in module.modules()))


def quantized_values(model: ir.Model) -> dict[str, list[str]]:
    """Path of a QAT module -> names of the float values it gives, one per call; for any later stage of the graph."""
    found: dict[str, list[str]] = {}
    for path, name in json.loads(model.metadata_props.get(_QUANTIZERS, "[]")):
        found.setdefault(path, []).append(name)
    return found


def _write_qdq(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.domain == _DOMAIN:
            _replace_fake_quantize(model, node)
    model.opset_imports.pop(_DOMAIN, None)


def _replace_fake_quantize(model: ir.Model, node: ir.Node) -> None:
    """One FakeQuantize node as Q/DQ; a constant becomes its integers and one DequantizeLinear."""
    x, scale_value = node.inputs
    scale = graph.constant(scale_value)
    assert x is not None and scale is not None, "scales are buffers of the model"
    axis, bits = graph.attribute(node, "axis"), graph.attribute(node, "bits")
    limits = graph.attribute(node, "quant_min"), graph.attribute(node, "quant_max")
    dtype = np.dtype(f"int{bits}")
    flat = scale.reshape(-1).astype(np.float32)
    stored = flat if axis >= 0 else flat[0]
    name = graph.node_name(node).replace("FakeQuantize", "Q")
    scale_init = _initializer(model, f"{name}_scale", np.asarray(stored, np.float32))
    # Limits as wide as the type are those of the type, counted from the zero point.
    shift = np.iinfo(dtype).min - limits[0] if limits[1] - limits[0] == (1 << bits) - 1 else 0
    zero = _initializer(model, f"{name}_zero_point", np.full(np.shape(stored), shift, dtype))
    real = graph.constant(x)
    attributes = [ir.AttrInt64("axis", axis)] if axis >= 0 else []
    path = meta.torch_module(node)
    made = []
    if real is not None:
        shape = [-1 if i == axis else 1 for i in range(real.ndim)] if axis >= 0 else ()
        integers = (np.clip(np.rint(real / np.reshape(stored, shape)), *limits) + shift).astype(dtype)
        integer = _initializer(model, f"{x.name}_quantized", integers)
    else:
        if limits != (np.iinfo(dtype).min - shift, np.iinfo(dtype).max - shift):
            x = _clip(model, node, x, float(flat[0]), limits)
        quantize = ir.Node(
            "", "QuantizeLinear", [x, scale_init, zero], attributes, num_outputs=1, name=f"{name}/Quantize"
        )
        quantize.outputs[0].name, quantize.outputs[0].shape = f"{name}_integers", x.shape
        quantize.outputs[0].dtype = ir.DataType.from_numpy(dtype)
        made.append(quantize)
        integer = quantize.outputs[0]
    copied = [ir.AttrInt64("axis", axis)] if axis >= 0 else []
    dequantize = ir.Node(
        "", "DequantizeLinear", [integer, scale_init, zero], copied, num_outputs=1, name=f"{name}/Dequantize"
    )
    out, old = dequantize.outputs[0], node.outputs[0]
    out.shape, out.dtype = old.shape, ir.DataType.FLOAT
    made.append(dequantize)
    for new in made:
        if path:
            meta.set_torch_module(new, path)
    model.graph.insert_before(node, made)
    original = old.name
    old.replace_all_uses_with(out, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    out.name = original


def _clip(model: ir.Model, node: ir.Node, x: ir.Value, scale: float, limits: tuple[int, int]) -> ir.Value:
    """Activations of fewer bits than their storage: limits in real numbers before the rounding."""
    low, high = (_initializer(model, f"{x.name}_{n}", np.float32(v * scale)) for n, v in zip("lh", limits, strict=True))
    clip = ir.Node("", "Clip", [x, low, high], num_outputs=1, name=f"{graph.node_name(node)}_Clip")
    clip.outputs[0].name, clip.outputs[0].shape = f"{x.name}_clipped", x.shape
    clip.outputs[0].dtype = ir.DataType.FLOAT
    model.graph.insert_before(node, clip)
    return clip.outputs[0]


def _initializer(model: ir.Model, name: str, array: np.ndarray | np.floating[Any]) -> ir.Value:
    unique, count = name, 1
    while unique in model.graph.initializers:
        unique, count = f"{name}_{count}", count + 1
    data = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
    value = ir.Value(name=unique, const_value=ir.tensor(data, name=unique))
    value.shape, value.dtype = ir.Shape(data.shape), ir.DataType.from_numpy(data.dtype)
    model.graph.register_initializer(value)
    return value


def _clean(model: ir.Model) -> None:
    """Drop dead initializers and what the exporter leaves in metadata (file paths of this machine among it)."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
    values = [v for node in model.graph for v in node.outputs]
    holders: list[Any] = [model, model.graph, *model.graph, *values, *model.graph.inputs]
    holders.extend(model.graph.initializers.values())
    for holder in holders:
        for key in [k for k in holder.metadata_props if k.startswith(_NOISE)]:
            del holder.metadata_props[key]
    for node in model.graph:
        node.doc_string = None
    model.producer_name, model.producer_version = "hbtool", None


_ = fake_quantize_op  # registers the operator the translation table names
