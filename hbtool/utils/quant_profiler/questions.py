"""Questions about a prepared model: where operators run, how often modules are called, what is left unfused, dtypes.

Each function returns its answer; tables go to the logger `hbtool.utils.quant_profiler` and to a file where asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from hbtool.errors import UsageError
from hbtool.nn.functional_module import FloatFunctional
from hbtool.nn.qat.weighted import Weighted
from hbtool.quantization import torch_ops
from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.quantization.fusion import Fuser
from hbtool.quantization.observed import ObservedGraphModule
from hbtool.quantization.rewrite import rewrite
from hbtool.quantization.tracing import trace

_log = logging.getLogger(__name__)


def _table(rows: Iterable[Sequence[Any]], header: Sequence[str]) -> str:
    cells = [list(header), *([str(c) for c in row] for row in rows)]
    widths = [max(len(str(row[i])) for row in cells) for i in range(len(header))]
    lines = ["  ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def _publish(text: str, show: bool, out_dir: str | Path | None, file_name: str) -> None:
    if show:
        _log.info("%s", text)
    if out_dir is not None:
        folder = Path(out_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file_name).write_text(text + "\n")


def _examples(example_inputs: Any) -> tuple[Any, ...]:
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)


def check_deploy_device(
    model: nn.Module, print_tabulate: bool = True, out_dir: str | Path | None = None
) -> dict[str, tuple[str, str]]:
    """Node name -> (`BPU` or `CPU`, `module`, `function` or `method`); writes `deploy_device.txt` into `out_dir`.

    Args:
        model: result of `prepare_qat_fx` or `convert_fx`.
        print_tabulate: log the table.
        out_dir: folder of the file, None for no file.
    """
    source = model.qat_model if isinstance(model, QuantizedGraphModule) else model
    if not isinstance(source, ObservedGraphModule):
        raise UsageError("check_deploy_device needs a model prepared in fx mode.", hint="Use prepare_qat_fx.")
    devices = source.hb.devices
    text = _table(((n, d, k, r) for n, (d, k, r) in devices.items()), ("name", "deploy device", "type", "reason"))
    _publish(text, print_tabulate, out_dir, "deploy_device.txt")
    return {name: (device, kind) for name, (device, kind, _) in devices.items()}


def get_module_called_count(
    model: nn.Module,
    example_inputs: Any,
    check_leaf_module: Callable[[nn.Module], bool] | None = None,
    print_tabulate: bool = True,
) -> dict[str, int]:
    """Leaf module path -> number of calls in one forward; 0 = defined but unused, more than 1 = shared."""
    is_leaf = check_leaf_module or (lambda m: not list(m.children()))
    counts: dict[str, int] = {}
    hooks = []
    for path, module in model.named_modules():
        if path and is_leaf(module):
            counts[path] = 0

            def count(_: nn.Module, __: Any, path: str = path) -> None:
                counts[path] += 1

            hooks.append(module.register_forward_pre_hook(count))
    try:
        with torch.no_grad():
            model(*_examples(example_inputs))
    finally:
        for hook in hooks:
            hook.remove()
    _publish(_table(counts.items(), ("name", "called times")), print_tabulate, None, "")
    return counts


def check_unfused_operations(model: nn.Module, example_inputs: Any, print_tabulate: bool = True) -> list[list[str]]:
    """Lists of module names of a float model that could be one fused module and are separate now.

    Args:
        model: float model; it is traced, not changed.
        example_inputs: accepted for compatibility.
        print_tabulate: log the lists.
    """
    traced = rewrite(trace(model))
    fuser = Fuser(traced)
    taken: set[fx.Node] = set()
    found = []
    for node in traced.graph.nodes:
        match = fuser._match(node, taken)
        if match is not None and len(match.nodes) > 1:
            taken.update(match.nodes)
            found.append([str(n.target) if n.op == "call_module" else n.name for n in match.nodes])
    _publish("\n".join(", ".join(names) for names in found) or "everything is fused", print_tabulate, None, "")
    return found


def check_qconfig(
    model: nn.Module,
    example_inputs: Any,
    prefixes: Sequence[str] = (),
    types: Sequence[type] = (),
    custom_check_func: Callable[[nn.Module, Any, Any], Any] | None = None,
    out_dir: str | Path | None = None,
) -> list[str]:
    """Log three tables (outputs, weights, what to look at); returns the messages; writes `qconfig_info.txt`.

    Args:
        model: prepared model.
        example_inputs: one batch, for `custom_check_func`.
        prefixes: only modules whose path starts with one of these.
        types: only modules of these types.
        custom_check_func: called with (module, input, output) of every chosen module.
        out_dir: folder of the file, None for no file.
    """
    chosen = {
        path: module
        for path, module in model.named_modules()
        if (not prefixes or path.startswith(tuple(prefixes))) and (not types or isinstance(module, tuple(types)))
    }
    outputs: list[tuple[Any, ...]] = []
    weights: list[tuple[Any, ...]] = []
    messages: list[str] = []
    for path, module in chosen.items():
        if not _owns_output(module):
            continue
        post = getattr(module, "activation_post_process", None)
        kind = type(module).__name__
        outputs.append(
            (path, kind, post.dtype if post is not None else "high precision", getattr(post, "ch_axis", "-"))
        )
        if post is None:
            messages.append(f"{path}: high-precision output")
        elif not post.activation_post_process.learns:
            messages.append(f"{path}: Fixed scale {post.scale.item():.3g}")
        if isinstance(module, Weighted) and module.weight_fake_quant is not None:
            weight = module.weight_fake_quant
            weights.append((path, kind, weight.dtype, weight.ch_axis))
            if weight.dtype == "qint16":
                messages.append(f"{path}: qint16 weight!!!")
    if custom_check_func is not None:
        _run_with_hook(model, example_inputs, chosen, custom_check_func)
    text = "\n\n".join(
        (
            _table(outputs, ("name", "type", "out dtype", "ch_axis")),
            _table(weights, ("name", "type", "weight dtype", "ch_axis")),
            "Please check if these OPs qconfigs are expected..\n" + "\n".join(messages),
        )
    )
    _publish(text, True, out_dir, "qconfig_info.txt")
    return messages


def _owns_output(module: nn.Module) -> bool:
    post = getattr(module, "activation_post_process", False)
    return post is None or isinstance(post, FakeQuantizeBase)


def _run_with_hook(model: nn.Module, example_inputs: Any, chosen: dict[str, nn.Module], function: Any) -> None:
    hooks = [m.register_forward_hook(lambda m, i, o: function(m, i, o) and None) for m in chosen.values()]
    try:
        with torch.no_grad():
            model(*_examples(example_inputs))
    finally:
        for hook in hooks:
            hook.remove()


_SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Cosine": lambda a, b: torch.nn.functional.cosine_similarity(a, b, dim=0),
    "MSE": lambda a, b: (a - b).square().mean(),
    "L1": lambda a, b: (a - b).abs().mean(),
    "SQNR": lambda a, b: 20 * torch.log10(a.norm() / (a - b).norm().clamp(min=1e-20)),
}


def featuremap_similarity(
    model1: nn.Module,
    model2: nn.Module,
    inputs: Any,
    similarity_func: Any = "Cosine",
    threshold: float | None = None,
    out_dir: str | Path | None = None,
) -> list[list[Any]]:
    """Rows [index, name, type, similarity, scale, largest error, largest error in scales] of two prepared models.

    Args:
        model1: one stage (calibration or QAT).
        model2: the next stage, of the same network.
        inputs: one batch.
        similarity_func: `Cosine`, `MSE`, `L1`, `SQNR` or a function of two flat tensors.
        threshold: cosine below which a row is marked; 0.99 by default.
        out_dir: folder of `similarity.txt`, None for no file.
    """
    function = _SIMILARITIES.get(similarity_func, similarity_func)
    if not callable(function):
        raise UsageError(f"unknown similarity {similarity_func!r}.", hint=f"Use {', '.join(_SIMILARITIES)}.")
    first, second = (_features(m, inputs) for m in (model1, model2))
    limit = 0.99 if threshold is None else threshold
    rows: list[list[Any]] = []
    for key, (kind, a, _) in first.items():
        if key not in second or second[key][1].shape != a.shape:
            continue
        b, scale = second[key][1], second[key][2]
        similarity = float(function(a.flatten().double(), b.flatten().double()))
        error = float((a - b).abs().max()) if a.numel() else 0.0
        rows.append([len(rows), key, kind, round(similarity, 7), scale, error, error / scale if scale else None])
    marked = [[*r, "<" if similarity_func == "Cosine" and r[3] < limit else ""] for r in rows]
    header = ("Index", "Module Name", "Module Type", "Similarity", "qscale", "Acc Error", "Acc Error (out_qscale)", "")
    _publish(_table(marked, header), True, out_dir, "similarity.txt")
    return rows


def _features(model: nn.Module, inputs: Any) -> dict[str, tuple[str, Tensor, float | None]]:
    """Path (with "(1)", "(2)" for repeated calls) -> (type, output, scale)."""
    found: dict[str, tuple[str, Tensor, float | None]] = {}
    counts: dict[str, int] = {}
    hooks = []
    for path, module in model.named_modules():
        if not path or isinstance(module, FakeQuantizeBase) or not _leaf(module):
            continue

        def keep(module: nn.Module, _: Any, output: Any, path: str = path) -> None:
            if isinstance(output, Tensor):
                number = counts.get(path, 0)
                counts[path] = number + 1
                post = getattr(module, "activation_post_process", None)
                scale = post.scale.item() if isinstance(post, FakeQuantizeBase) and post.scale.numel() == 1 else None
                name = f"{path}({number})" if number else path
                found[name] = (type(module).__name__, output.detach().clone(), scale)

        hooks.append(module.register_forward_hook(keep))
    try:
        with torch.no_grad():
            model(*_examples(inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _leaf(module: nn.Module) -> bool:
    if isinstance(module, (Weighted, FloatFunctional)) or _owns_output(module):
        return True
    return not list(module.children()) and torch_ops.of_module(module) is not torch_ops.UNKNOWN
