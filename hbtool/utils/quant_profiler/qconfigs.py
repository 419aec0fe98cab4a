"""`check_qconfig`: which type every operator takes and gives, and what about that deserves a second look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hbtool.nn.qat.weighted import Weighted
from hbtool.quantization import torch_ops
from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.quantization.torch_ops import Rule
from hbtool.utils.quant_profiler.recording import Call, record, validating
from hbtool.utils.quant_profiler.tables import examples, publish, table

_FLOAT = "torch.float32"


def check_qconfig(
    model: nn.Module,
    example_inputs: Any,
    prefixes: Sequence[str] = (),
    types: Sequence[type] = (),
    custom_check_func: Callable[[nn.Module, Any, Any], Any] | None = None,
    out_dir: str | Path | None = None,
) -> list[str]:
    """Log three tables (outputs, weights, what to look at); returns the messages as `path: message`.

    Messages: int16 weights, fixed scales, results of another type than the operands, results without a scale.

    Args:
        model: calibrated or QAT model; its state is left as it was.
        example_inputs: one batch.
        prefixes: only modules whose path starts with one of these.
        types: only modules of these types.
        custom_check_func: called with (module, input, output) of every chosen module, in a hook.
        out_dir: folder of `qconfig_info.txt`, None for no file.
    """
    with validating(model):
        calls = record(model, example_inputs)
        if custom_check_func is not None:
            _run_custom(model, example_inputs, custom_check_func, prefixes, types)
    chosen = [c for c in calls if c.number == 0 and _chosen(c.path, c.module, prefixes, types)]
    found = [(c, text) for c in chosen for text in _messages(c)]
    header = ("Module Name", "Module Type", "Input dtype", "out dtype", "ch_axis")
    parts = [
        "each layer out qconfig:\n" + table(map(_output_row, chosen), header),
        "weight qconfig:\n" + table(_weight_rows(chosen), ("Module Name", "Module Type", "weight dtype", "ch_axis")),
        "Please check if these OPs qconfigs are expected..\n"
        + table(((c.path, type(c.module).__name__, text) for c, text in found), ("Module Name", "Module Type", "Msg")),
    ]
    publish("\n\n".join(parts), True, out_dir, "qconfig_info.txt")
    return [f"{c.path}: {text}" for c, text in found]


def _chosen(path: str, module: nn.Module, prefixes: Sequence[str], types: Sequence[type]) -> bool:
    return (not prefixes or path.startswith(tuple(prefixes))) and (not types or isinstance(module, tuple(types)))


def _output_row(call: Call) -> tuple[Any, ...]:
    name, kind, given = call.path, type(call.module).__name__, str(_input_types(call))
    if call.quantizer is not None:
        return name, kind, given, call.quantizer.dtype, call.quantizer.ch_axis
    if isinstance(call.module, Weighted):
        return name, kind, given, "high precision", "-"
    return name, kind, given, _FLOAT, "qconfig = None"


def _weight_rows(calls: Sequence[Call]) -> Iterator[tuple[Any, ...]]:
    for call in calls:
        quantizer = getattr(call.module, "weight_fake_quant", None)
        if isinstance(quantizer, FakeQuantizeBase):
            yield call.path, type(call.module).__name__, quantizer.dtype, quantizer.ch_axis


def _input_types(call: Call) -> list[str]:
    return [
        str(q.dtype) if q is not None else str(t.dtype)
        for (_, t), q in zip(call.inputs, call.input_quantizers, strict=True)
    ]


def _messages(call: Call) -> Iterator[str]:
    weight = getattr(call.module, "weight_fake_quant", None)
    if isinstance(weight, FakeQuantizeBase) and weight.asked_dtype != weight.dtype:
        yield f"{weight.asked_dtype} weight!!!"
    own = getattr(call.module, "activation_post_process", None)
    if isinstance(own, FakeQuantizeBase):
        if not own.activation_post_process.learns:
            yield f"Fixed scale {own.scale.max().item():.3g}"
        given = _input_types(call)
        if any(q is not None for q in call.input_quantizers) and set(given) != {str(own.dtype)}:
            yield f"input dtype {given} is not same with out dtype {own.dtype}"
    elif isinstance(call.module, Weighted):
        yield "high-precision output"
    elif call.quantizer is None and torch_ops.of_module(call.module).rule is Rule.OWN:
        yield "un-quantized output (qconfig = None)"


def _run_custom(
    model: nn.Module, example_inputs: Any, function: Any, prefixes: Sequence[str], types: Sequence[type]
) -> None:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        function(module, args, output)

    hooks = [m.register_forward_hook(hook) for p, m in model.named_modules() if p and _chosen(p, m, prefixes, types)]
    try:
        with torch.no_grad():
            model(*examples(example_inputs))
    finally:
        for handle in hooks:
            handle.remove()
