"""Questions about a model: where operators run, how often modules are called, what is left unfused.

Each function returns its answer; tables go to the logger `hbtool.utils.quant_profiler` and to a file where asked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from hbtool.errors import UsageError
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.quantization.fusion import Fuser
from hbtool.quantization.observed import ObservedGraphModule, fake_quantizers
from hbtool.quantization.rewrite import rewrite
from hbtool.quantization.tracing import trace
from hbtool.utils.quant_profiler.tables import examples, publish, table


def check_deploy_device(
    model: nn.Module, print_tabulate: bool = True, out_dir: str | Path | None = None
) -> dict[str, tuple[str, str]]:
    """Node name -> (`BPU` or `CPU`, `module`, `function` or `method`); writes `deploy_device.txt` into `out_dir`.

    Args:
        model: result of `prepare_qat_fx` or `convert_fx`.
        print_tabulate: log the table.
        out_dir: folder of the file, None for no file.

    Raises:
        UsageError: the model was not prepared in fx mode.
    """
    source = model.qat_model if isinstance(model, QuantizedGraphModule) else model
    if not isinstance(source, ObservedGraphModule):
        raise UsageError("check_deploy_device needs a model prepared in fx mode.", hint="Use prepare_qat_fx.")
    devices = source.hb.devices
    text = table(((n, d, k, r) for n, (d, k, r) in devices.items()), ("name", "deploy device", "type", "reason"))
    publish(text, print_tabulate, out_dir, "deploy_device.txt")
    return {name: (device, kind) for name, (device, kind, _) in devices.items()}


def get_module_called_count(
    model: nn.Module,
    example_inputs: Any,
    check_leaf_module: Callable[[nn.Module], bool] | None = None,
    print_tabulate: bool = True,
) -> dict[str, int]:
    """Leaf module path -> number of calls in one forward; 0 = defined but unused, more than 1 = shared.

    Args:
        model: any model; it runs once, without gradients.
        example_inputs: one batch.
        check_leaf_module: which modules count as leaves; those without children by default.
        print_tabulate: log the table.
    """
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
            model(*examples(example_inputs))
    finally:
        for hook in hooks:
            hook.remove()
    publish(table(counts.items(), ("name", "called times")), print_tabulate, None, "")
    return counts


def check_unfused_operations(model: nn.Module, example_inputs: Any, print_tabulate: bool = True) -> list[list[str]]:
    """Lists of module names of a float model that could be one fused module and are separate now.

    Args:
        model: float model; it is traced, not changed.
        example_inputs: accepted for compatibility.
        print_tabulate: log the table: name and type of each member, a line between groups.

    Raises:
        UsageError: the model is prepared or converted; there fusion has happened.
    """
    if isinstance(model, QuantizedGraphModule) or fake_quantizers(model):
        raise UsageError(
            "check_unfused_operations takes float models only.",
            where=type(model).__name__,
            hint="Give the model before prepare; prepare_qat_fx fuses by itself.",
        )
    traced = rewrite(trace(model))
    modules = dict(traced.named_modules())
    found: list[list[str]] = []
    rows: list[tuple[str, str]] = []
    for nodes in Fuser(traced).chains():
        found.append([_name(node) for node in nodes])
        rows += [("", "")] if rows else []
        rows += [(_name(node), _type(node, modules)) for node in nodes]
    text = table(rows, ("name", "type")) if rows else "everything is fused"
    publish(text, print_tabulate, None, "")
    return found


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _type(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    return type(modules[str(node.target)]).__name__ if node.op == "call_module" else str(node.target)
