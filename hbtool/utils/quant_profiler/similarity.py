"""`featuremap_similarity`: how far one stage of a network is from the next, operator by operator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.analysis.page import Plot, Section, debug_page
from hbtool.analysis.plots import lines_svg
from hbtool.errors import UsageError
from hbtool.quantization.compare_codes import integer_values
from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.quantization.observed import ObservedGraphModule
from hbtool.quantization.quantize_fx import fuse_fx
from hbtool.quantization.tracing import QuantGraphModule
from hbtool.utils.quant_profiler.recording import Call, record, validating
from hbtool.utils.quant_profiler.tables import examples, log, publish, table, write

Function = Callable[[Tensor, Tensor], Any]


def _kl(a: Tensor, b: Tensor) -> Tensor:
    """Divergence of softmax(b) from softmax(a)."""
    return torch.nn.functional.kl_div(b.log_softmax(0), a.log_softmax(0), reduction="sum", log_target=True)


FUNCTIONS: dict[str, Function] = {
    "Cosine": lambda a, b: 1.0 if torch.equal(a, b) else torch.nn.functional.cosine_similarity(a, b, dim=0),
    "MSE": lambda a, b: (a - b).square().mean(),
    "L1": lambda a, b: (a - b).abs().mean(),
    "KL": _kl,
    "SQNR": lambda a, b: 20 * torch.log10(a.norm() / (a - b).norm().clamp(min=1e-20)),
}
"""Of two flat float64 tensors, the earlier stage first."""
_THRESHOLDS = {"Cosine": 0.99, "SQNR": 20.0}
_HEADER = (
    "Index", "Module Name", "Module Type", "Similarity", "qscale", "Acc Error (float atol)",
    "Acc Error (N out_qscale)", "Op Error with Same Input (N out_qscale)",
)  # fmt: skip


def similarity_function(name: Any) -> Function:
    """The function of that name, or the user's own.

    Raises:
        UsageError: no such name.
    """
    function = FUNCTIONS.get(name, name) if isinstance(name, str) else name
    if not callable(function):
        raise UsageError(
            f"unknown similarity {name!r}.", hint=f"Use {', '.join(FUNCTIONS)}, or a function of two flat tensors."
        )
    return function


@dataclass(frozen=True)
class _Value:
    """What one operator gave in one stage."""

    kind: str
    identity: bool
    data: Tensor
    scale: float | None


def featuremap_similarity(
    model1: nn.Module,
    model2: nn.Module,
    inputs: Any,
    similarity_func: Any = "Cosine",
    threshold: float | None = None,
    devices: Any = None,
    out_dir: str | Path | None = None,
) -> list[list[Any]]:
    """Rows of two neighbouring stages: float and calibrated, calibrated and QAT, QAT and fixed point.

    A row is [index, name, type, similarity (7 decimals), scale of the result (None if float or per channel), largest
    error, largest error in scales, the same with the operator of `model1` fed what `model2` computed before it].
    Names end in `(1)`, `(2)` for repeated calls, `(I)` or `(I vs I)` for an Identity in one model or in both.
    Both models run in VALIDATION state; their states and scales are left as they were.

    Args:
        model1: the earlier stage; a float model that is not fused is fused first (a copy of it).
        model2: the later stage of the same network.
        inputs: one batch.
        similarity_func: `Cosine`, `MSE`, `L1`, `KL`, `SQNR` or a function of two flat tensors.
        threshold: rows worse than this are marked in the table; None: 0.99 for Cosine, 20 dB for SQNR, else no mark.
        devices: a device, or one for each model; None leaves them where they are.
        out_dir: folder of `similarity.txt`, `ordered_op_error_similarity.txt` and `similarity.html`.

    Raises:
        UsageError: an unknown similarity, or the models have nothing in common.
    """
    function = similarity_function(similarity_func)
    model1 = _fused_like(model1, model2)
    first_inputs, second_inputs = _placed(model1, model2, inputs, devices)
    second = _values(model2, second_inputs)
    first = _values(model1, first_inputs)
    same_input = _same_input_errors(model1, first_inputs, second)
    rows: list[list[Any]] = []
    for name, a in first.items():
        b = second.get(name)
        if b is not None and b.data.shape == a.data.shape and a.data.numel():
            rows.append([len(rows), name + _suffix(a, b), a.kind, *_numbers(a, b, function), same_input.get(name)])
    if not rows:
        raise UsageError(
            "the two models have no operator in common.", where="featuremap_similarity",
            hint="Compare neighbouring stages of one network: float and calibrated, or QAT and fixed point.",
        )  # fmt: skip
    _report(rows, similarity_func, threshold, out_dir)
    return rows


def _fused_like(model1: nn.Module, model2: nn.Module) -> nn.Module:
    """A float model as prepare sees it: fused, so that both have the same operators."""
    if isinstance(model2, ObservedGraphModule) and not isinstance(model1, QuantGraphModule | QuantizedGraphModule):
        log.info("featuremap_similarity: model1 is not fused; a fused copy of it is compared")
        return fuse_fx(copy.deepcopy(model1))
    return model1


def _placed(model1: nn.Module, model2: nn.Module, inputs: Any, devices: Any) -> tuple[Any, Any]:
    batch = examples(inputs)
    if devices is None:
        return batch, batch
    pair = tuple(devices) if isinstance(devices, list | tuple) else (devices, devices)
    placed = []
    for model, device in zip((model1, model2), pair, strict=True):
        model.to(device)
        placed.append(tuple(t.to(device) if isinstance(t, Tensor) else t for t in batch))
    return placed[0], placed[1]


def _values(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, _Value]:
    """Name -> what the operator gave, in forward order."""
    if isinstance(model, QuantizedGraphModule):
        return dict(_fixed_values(model, inputs))
    with validating(model):
        return {name: value for call in record(model, inputs) for name, value in _of_call(call)}


def _of_call(call: Call) -> Iterator[tuple[str, _Value]]:
    kind = type(call.module).__name__
    for label, data in call.outputs:
        name = f"{call.name}-{label}" if label else call.name
        yield name, _Value(kind, isinstance(call.module, nn.Identity), data.cpu(), _one_scale(call.quantizer))


def _one_scale(quantizer: FakeQuantizeBase | None) -> float | None:
    return quantizer.scale.item() if quantizer is not None and quantizer.scale.numel() == 1 else None


def _fixed_values(model: QuantizedGraphModule, inputs: tuple[Any, ...]) -> Iterator[tuple[str, _Value]]:
    """The integers of a fixed-point model, dequantized, by the paths of the QAT modules they stand for."""
    modules = dict(model.qat_model.named_modules())
    for path, calls in integer_values(model.program(*inputs), *inputs).items():
        for number, found in enumerate(calls):
            if found is not None:
                integers, q = found
                owner = path.removesuffix(".activation_post_process")
                data = (integers.cpu().float() - q.zero_point) * q.scale
                kind = type(modules[owner]).__name__ if owner in modules else ""
                yield f"{owner}({number})" if number else owner, _Value(kind, False, data, float(q.scale))


def _same_input_errors(model: nn.Module, inputs: tuple[Any, ...], later: dict[str, _Value]) -> dict[str, float | None]:
    """Largest error in scales of each operator of `model` that is fed what the later stage computed."""
    if isinstance(model, QuantizedGraphModule):
        return {}
    errors: dict[str, float | None] = {}

    def look(call: Call) -> Any:
        if len(call.outputs) != 1 or call.outputs[0][0]:
            return None
        other, data = later.get(call.name), call.outputs[0][1]
        if other is None or other.data.shape != data.shape:
            return None
        replaced = other.data.to(data.device, data.dtype)
        if other.scale:
            errors[call.name] = float((data - replaced).abs().max()) / other.scale if data.numel() else 0.0
        return replaced

    with validating(model):
        record(model, inputs, look)
    return errors


def _suffix(a: _Value, b: _Value) -> str:
    return "(I vs I)" if a.identity and b.identity else "(I)" if a.identity or b.identity else ""


def _numbers(a: _Value, b: _Value, function: Function) -> tuple[Any, ...]:
    """Similarity, scale, largest error, largest error in scales."""
    similarity = round(float(function(a.data.flatten().double(), b.data.flatten().double())), 7)
    error = float((a.data - b.data).abs().max())
    return similarity, b.scale, error, error / b.scale if b.scale else None


def _report(rows: Sequence[Sequence[Any]], name: Any, threshold: float | None, out_dir: str | Path | None) -> None:
    limit = _THRESHOLDS.get(name) if threshold is None and isinstance(name, str) else threshold
    larger_is_better = not isinstance(name, str) or name in ("Cosine", "SQNR")

    def bad(row: Sequence[Any]) -> bool:
        return limit is not None and (row[3] < limit if larger_is_better else row[3] > limit)

    header = (*_HEADER, "")
    text = table(((*_cells(r), "<--" if bad(r) else "") for r in rows), header)
    publish(text, True, out_dir, "similarity.txt")
    if out_dir is None:
        return
    by_error = sorted(rows, key=lambda r: -(r[7] or 0.0))
    write(table(map(_cells, by_error), _HEADER) + "\n", out_dir, "ordered_op_error_similarity.txt")
    curves = [(f"{name}", [r[3] for r in rows])]
    errors = [("accumulated", [r[6] or 0.0 for r in rows]), ("same input", [r[7] or 0.0 for r in rows])]
    plots = (
        Plot(lines_svg(curves), "Similarity, in forward order"),
        Plot(lines_svg(errors), "Largest error in scales of the result, in forward order"),
    )
    worst = min(rows, key=lambda r: r[3]) if larger_is_better else max(rows, key=lambda r: r[3])
    section = Section(
        "Similarity", "The later stage against the earlier one.", _HEADER, list(map(_cells, rows)), 3, plots
    )
    write(debug_page("similarity", f"Worst: {worst[1]} ({worst[3]:.7g}).", [section]), out_dir, "similarity.html")


def _cells(row: Sequence[Any]) -> list[str]:
    index, name, kind, similarity, scale, error, steps, same_input = row
    rounded = ["" if v is None else f"{v:.0f}" for v in (steps, same_input)]
    return [
        str(index),
        name,
        kind,
        f"{similarity:.7f}",
        "" if scale is None else f"{scale:.7f}",
        f"{error:.7f}",
        *rounded,
    ]
