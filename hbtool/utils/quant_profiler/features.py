"""Inputs, outputs and parameters of every module in one forward, and their statistics."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.analysis.page import Plot, Section, debug_page
from hbtool.analysis.plots import lines_svg
from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.utils.quant_profiler.recording import Call, record
from hbtool.utils.quant_profiler.tables import examples, log, publish, table, write

_HEADER = (
    "Module Index", "Module Name", "Module Type", "Input/Output/Attr", "Min", "Max", "Mean", "Var", "Scale", "Dtype",
)  # fmt: skip


def get_raw_features(
    model: nn.Module,
    example_inputs: Any,
    prefixes: Sequence[str] = (),
    types: Sequence[type] = (),
    device: torch.device | str | None = None,
    preserve_int: bool = False,
    use_class_name: bool = False,
    skip_identity: bool = False,
) -> list[dict[str, Any]]:
    """One dict per tensor in forward order: module_name, module_type, attr, data, scale, ch_axis, ff_method, dtype.

    Args:
        model: float or prepared model.
        example_inputs: one batch.
        prefixes: only modules whose path starts with one of these.
        types: only modules of these types.
        device: where model and batch are moved; None leaves them.
        preserve_int: give integers (data / scale) where a scale is known.
        use_class_name: add the class to the name.
        skip_identity: leave out nn.Identity.
    """
    if device is not None:
        model, example_inputs = model.to(device), tuple(t.to(device) for t in examples(example_inputs))
    rows: list[dict[str, Any]] = []
    for index, call in enumerate(record(model, example_inputs)):
        if (prefixes and not call.path.startswith(tuple(prefixes))) or (
            types and not isinstance(call.module, tuple(types))
        ):
            continue
        if skip_identity and isinstance(call.module, nn.Identity):
            continue
        for attr, tensor, quantizer in _tensors(call):
            rows.append(_row(index, call, attr, tensor, quantizer, preserve_int, use_class_name))
    return rows


def _tensors(call: Call) -> Iterator[tuple[str, Tensor, FakeQuantizeBase | None]]:
    for (label, tensor), quantizer in zip(call.inputs, call.input_quantizers, strict=True):
        yield f"input-{label}", tensor, quantizer
    for label, tensor in call.outputs:
        yield f"output-{label}" if label else "output", tensor, call.quantizer
    for name, parameter in call.module.named_parameters(recurse=False):
        quantizer = getattr(call.module, f"{name}_fake_quant", None)
        yield name, parameter.detach().clone(), quantizer if isinstance(quantizer, FakeQuantizeBase) else None


def _row(
    index: int, call: Call, attr: str, tensor: Tensor, quantizer: FakeQuantizeBase | None, integers: bool, named: bool
) -> dict[str, Any]:
    scale = quantizer.scale.detach().clone() if quantizer is not None else None
    axis = int(quantizer.ch_axis) if quantizer is not None and quantizer.scale.numel() > 1 else -1
    kind = type(call.module).__name__
    return {
        "module_name": f"{call.path}({kind})" if named else call.path,
        "module_type": kind,
        "index": index,
        "attr": attr,
        "data": _integers(tensor, scale, axis) if integers and scale is not None else tensor,
        "scale": scale,
        "ch_axis": axis,
        "ff_method": call.method,
        "dtype": str(quantizer.dtype) if quantizer is not None else str(tensor.dtype),
    }


def _integers(tensor: Tensor, scale: Tensor, axis: int) -> Tensor:
    shape = [1] * tensor.dim()
    if axis >= 0:
        shape[axis] = -1
    return torch.round(tensor / scale.reshape(shape))


def profile_featuremap(
    featuremap: Sequence[dict[str, Any]],
    with_tensorboard: bool = False,
    tensorboard_dir: str | Path | None = None,
    print_per_channel_scale: bool = False,
    show_per_channel: bool = False,
    out_dir: str | Path | None = None,
    file_name: str | None = None,
) -> list[list[Any]]:
    """Rows [index, name, attr, min, max, mean, var, scale, dtype]; logged in forward order and by range.

    Args:
        featuremap: result of `get_raw_features`.
        with_tensorboard: also write histograms for tensorboard, where it is installed.
        tensorboard_dir: their folder, `tensorboard` if None.
        print_per_channel_scale: print every channel's scale instead of the largest.
        show_per_channel: one row per channel (axis 1, or the scale's axis).
        out_dir: folder of `statistic.txt` and `statistic.html`, None for no files.
        file_name: name of the files without suffix.
    """
    rows: list[list[Any]] = []
    kinds: list[str] = []
    for position, feature in enumerate(featuremap):
        for suffix, part in _parts(feature, show_per_channel):
            if part.numel():
                moments = [float(part.min()), float(part.max()), float(part.mean()), float(part.var(unbiased=False))]
                scale = _shown_scale(feature["scale"], print_per_channel_scale)
                place = [feature.get("index", position), _shown_name(feature), f"{feature['attr']}{suffix}"]
                rows.append([*place, *moments, scale, feature.get("dtype", "")])
                kinds.append(feature.get("module_type", ""))
    cells = [(*r[:2], kind, *r[2:]) for r, kind in zip(rows, kinds, strict=True)]
    by_range = sorted(cells, key=lambda r: r[4] - r[5])
    text = f"{table(cells, _HEADER)}\n\nStatistics with quant range in descending order\n{table(by_range, _HEADER)}"
    stem = file_name or "statistic"
    publish(text, True, out_dir, f"{stem}.txt")
    if out_dir is not None:
        write(_page(cells, by_range), out_dir, f"{stem}.html")
    if with_tensorboard:
        write_histograms(((f"{f['module_name']}:{f['attr']}", f["data"]) for f in featuremap), tensorboard_dir)
    return rows


def _parts(feature: dict[str, Any], per_channel: bool) -> list[tuple[str, Tensor]]:
    data = feature["data"].float()
    if not per_channel or data.dim() < 2:
        return [("", data)]
    axis = feature["ch_axis"] if feature["ch_axis"] >= 0 else 1
    return [(f"[{i}]", c) for i, c in enumerate(data.unbind(axis))]


def _shown_scale(scale: Tensor | None, per_channel: bool) -> Any:
    if scale is None:
        return None
    return scale.tolist() if per_channel else float(scale.max())


def _shown_name(feature: dict[str, Any]) -> str:
    method = feature.get("ff_method")
    return f"{feature['module_name']}[{method}]" if method else str(feature["module_name"])


def _page(rows: Sequence[Sequence[Any]], by_range: Sequence[Sequence[Any]]) -> str:
    plot = Plot(lines_svg([("max", [r[5] for r in rows]), ("min", [r[4] for r in rows])]), "Extremes, in forward order")
    sections = [
        Section("In forward order", "Every tensor of one forward.", _HEADER, list(map(_cells, rows)), 4, (plot,)),
        Section("By range", "What needs the largest scale comes first.", _HEADER, list(map(_cells, by_range)), 4),
    ]
    widest = f"Widest: {by_range[0][1]} {by_range[0][3]}." if by_range else "No tensors."
    return debug_page("statistics", widest, sections)


def _cells(row: Sequence[Any]) -> list[str]:
    return ["" if c is None else f"{c:.7g}" if isinstance(c, float) else str(c) for c in row]


def write_histograms(tensors: Any, folder: str | Path | None) -> None:
    """Histograms for tensorboard; one log line where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        log.warning("with_tensorboard: tensorboard is not installed; the .txt and .html files hold the same figures")
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder or "tensorboard")) as writer:
        for name, tensor in tensors:
            writer.add_histogram(name, tensor.float())
