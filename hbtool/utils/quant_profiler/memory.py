"""`show_cuda_memory_consumption`: memory after every module, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.analysis.page import Plot, Section, debug_page
from hbtool.analysis.plots import lines_svg
from hbtool.utils.quant_profiler.tables import examples, log, write

_MIB = 2.0**20


def show_cuda_memory_consumption(
    model: nn.Module,
    example_inputs: Any,
    device: torch.device | str | int,
    check_leaf_module: Callable[[nn.Module], bool] | None = None,
    out_dir: str | Path | None = None,
    file_name: str | None = None,
    custom_backward: Callable[[Any], Any] | None = None,
) -> list[tuple[str, float]]:
    """(step, MiB in use) after the forward and the backward of every leaf module; writes `mem_info.html`.

    On a CUDA device the figure is what torch's allocator holds there. Without CUDA the tool says so and counts what can
    be counted on any device: the parameters, and the tensors that autograd keeps for the backward pass.

    Args:
        model: any model; its gradients are left as they were.
        example_inputs: one batch.
        device: where model and batch are moved.
        check_leaf_module: which modules are steps; those without children by default.
        out_dir: folder of the page, the current folder if None.
        file_name: name of the page without suffix, `mem_info` by default.
        custom_backward: called with the model's output to run the backward pass; the sum of all outputs by default.
    """
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        log.warning("show_cuda_memory_consumption: there is no CUDA device; counting on the CPU instead")
        device = torch.device("cpu")
    meter = _CudaMeter(device) if device.type == "cuda" else _TensorMeter(model)
    model.to(device)
    batch = tuple(t.to(device) if isinstance(t, Tensor) else t for t in examples(example_inputs))
    gradients = {p: p.grad for p in model.parameters()}
    steps: list[tuple[str, float]] = [("start", meter.mib())]
    handles = _hooks(model, check_leaf_module or (lambda m: not list(m.children())), steps, meter)
    try:
        with torch.enable_grad(), meter:
            output = model(*batch)
            if custom_backward is not None:
                custom_backward(output)
            else:
                _sum(output).backward()  # type: ignore[no-untyped-call]
            steps.append(("end", meter.mib()))
    finally:
        for handle in handles:
            handle.remove()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
    _page(model, steps, meter.what, out_dir, file_name or "mem_info")
    return steps


class _CudaMeter:
    """Bytes that torch holds on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.what, self._device = f"allocated by torch on {device}", device

    def mib(self) -> float:
        return torch.cuda.memory_allocated(self._device) / _MIB

    def __enter__(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def __exit__(self, *error: object) -> None:
        pass


class _TensorMeter:
    """Bytes of the parameters, and of the storages that autograd has saved and not yet given back."""

    def __init__(self, model: nn.Module) -> None:
        self.what = "parameters and tensors kept for the backward pass (no CUDA device was measured)"
        self._fixed = {t.untyped_storage().data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
        self._saved: dict[int, tuple[int, int]] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.give_back())

    def mib(self) -> float:
        return (sum(self._fixed.values()) + sum(size for _, size in self._saved.values())) / _MIB

    def _pack(self, tensor: Tensor) -> _Kept:
        return _Kept(tensor, self._saved, tensor.untyped_storage().data_ptr() in self._fixed)

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)


class _Kept:
    """A tensor that autograd saved; counted until the graph lets it go."""

    def __init__(self, tensor: Tensor, saved: dict[int, tuple[int, int]], parameter: bool) -> None:
        storage = tensor.untyped_storage()
        self._tensor, self._saved = tensor.detach(), saved
        self._key = None if parameter else storage.data_ptr()
        if self._key is not None:
            users, size = saved.get(self._key, (0, storage.nbytes()))
            saved[self._key] = users + 1, size

    def give_back(self) -> Tensor:
        return self._tensor

    def __del__(self) -> None:
        if self._key is None or self._key not in self._saved:
            return
        users, size = self._saved[self._key]
        if users > 1:
            self._saved[self._key] = users - 1, size
        else:
            del self._saved[self._key]


def _hooks(model: nn.Module, is_leaf: Callable[[nn.Module], bool], steps: list[tuple[str, float]], meter: Any) -> Any:
    handles = []
    for path, module in model.named_modules():
        if not path or not is_leaf(module):
            continue

        def after(_: nn.Module, __: Any, output: Any, path: str = path) -> None:
            steps.append((f"forward {path}", meter.mib()))
            for tensor in [output] if isinstance(output, Tensor) else []:
                if tensor.requires_grad:
                    tensor.register_hook(lambda _, path=path: steps.append((f"backward {path}", meter.mib())))  # type: ignore[no-untyped-call]

        handles.append(module.register_forward_hook(after))
    return handles


def _sum(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output.float().sum()
    values = output.values() if isinstance(output, dict) else output
    return torch.stack([_sum(v) for v in values]).sum()


def _page(model: nn.Module, steps: list[tuple[str, float]], what: str, out_dir: Any, file_name: str) -> None:
    peak = max(steps, key=lambda s: s[1])
    rows = [(name, f"{mib:.3f}") for name, mib in steps]
    plot = Plot(lines_svg([("MiB", [mib for _, mib in steps])], 0.0), "MiB after each step")
    section = Section("Memory", f"MiB {what}.", ("Step", "MiB"), rows, 1, (plot,))
    summary = f"Largest: {peak[1]:.3f} MiB at {peak[0]}."
    path = write(debug_page(type(model).__name__, summary, [section]), out_dir or ".", f"{file_name}.html")
    log.info("memory: %s %s: %s", summary, what, path)
