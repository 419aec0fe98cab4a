"""Inputs, outputs and parameters of every module in one forward, and their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.nn.functional_module import FloatFunctional
from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.utils.quant_profiler.questions import _examples, _leaf, _publish, _table


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
    """One dict per tensor in forward order: module_name, attr, data, scale, ch_axis, ff_method.

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
        model, example_inputs = model.to(device), tuple(t.to(device) for t in _examples(example_inputs))
    rows: list[dict[str, Any]] = []
    handles = []
    for path, module in model.named_modules():
        if not path or isinstance(module, FakeQuantizeBase) or not _leaf(module):
            continue
        if (prefixes and not path.startswith(tuple(prefixes))) or (types and not isinstance(module, tuple(types))):
            continue
        if skip_identity and isinstance(module, nn.Identity):
            continue
        name = f"{path}({type(module).__name__})" if use_class_name else path

        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            post = getattr(module, "activation_post_process", None)
            method = "forward" if isinstance(module, FloatFunctional) else None
            for attr, value, source in (
                *((f"input-{i}", a, None) for i, a in enumerate((*args, *kwargs.values()))),
                ("output", output, post),
                *((n, p, getattr(module, f"{n}_fake_quant", None)) for n, p in module.named_parameters(recurse=False)),
            ):
                rows.extend(_rows(name, attr, value, source, method, preserve_int))

        handles.append(module.register_forward_hook(keep, with_kwargs=True))
    try:
        with torch.no_grad():
            model(*_examples(example_inputs))
    finally:
        for handle in handles:
            handle.remove()
    return rows


def _rows(name: str, attr: str, value: Any, source: Any, method: str | None, integers: bool) -> list[dict[str, Any]]:
    if isinstance(value, list | tuple):
        return [r for i, v in enumerate(value) for r in _rows(name, f"{attr}-{i}", v, source, method, integers)]
    if not isinstance(value, Tensor):
        return []
    known = isinstance(source, FakeQuantizeBase)
    scale = source.scale.detach().clone() if known else None
    axis = int(source.ch_axis) if known and source.scale.numel() > 1 else -1
    data = value.detach().clone()
    if integers and scale is not None and scale.numel() == 1:
        data = torch.round(data / scale)
    dtype = str(source.dtype) if known else str(data.dtype)
    return [
        {"module_name": name, "attr": attr, "data": data, "scale": scale, "ch_axis": axis, "ff_method": method,
         "dtype": dtype}
    ]  # fmt: skip


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
        with_tensorboard: accepted for compatibility; the text file holds the same.
        tensorboard_dir: accepted for compatibility.
        print_per_channel_scale: print every channel's scale instead of the largest.
        show_per_channel: one row per channel (axis 1, or the scale's axis).
        out_dir: folder of `statistic.txt`, None for no file.
        file_name: name of the file without suffix.
    """
    rows: list[list[Any]] = []
    for index, feature in enumerate(featuremap):
        data = feature["data"].float()
        parts = [("", data)]
        if show_per_channel and data.dim() > 1:
            axis = feature["ch_axis"] if feature["ch_axis"] >= 0 else 1
            parts = [(f"[{i}]", c) for i, c in enumerate(data.unbind(axis))]
        scale = feature["scale"]
        shown: Any = None
        if scale is not None:
            shown = scale.tolist() if print_per_channel_scale else float(scale.max())
        for suffix, part in parts:
            if part.numel():
                low, high, mean = float(part.min()), float(part.max()), float(part.mean())
                variance = float(part.var(unbiased=False))
                rows.append(
                    [index, feature["module_name"], f"{feature['attr']}{suffix}", low, high, mean, variance, shown,
                     feature.get("dtype", "")]
                )  # fmt: skip
    header = ("Index", "Module Name", "Input/Output/Attr", "Min", "Max", "Mean", "Var", "Scale", "Dtype")
    by_range = sorted(rows, key=lambda r: r[3] - r[4])
    text = f"{_table(rows, header)}\n\nStatistics with quant range in descending order\n{_table(by_range, header)}"
    _publish(text, True, out_dir, f"{file_name or 'statistic'}.txt")
    return rows
