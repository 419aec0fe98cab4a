"""One forward, written down: every module's call, its tensors and the fake quantizers of their scales."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from hbtool.nn.functional_module import FloatFunctional
from hbtool.nn.intrinsic import Fused
from hbtool.nn.qat.activation import DeQuantStub, InputScale
from hbtool.nn.qat.weighted import Weighted
from hbtool.quantization import torch_ops
from hbtool.quantization.fake_quantize import FakeQuantizeBase, FakeQuantState
from hbtool.quantization.observed import fake_quantizers
from hbtool.quantization.stubs import is_dequant_stub
from hbtool.utils.quant_profiler.tables import examples


@dataclass(frozen=True)
class Call:
    """One call of one module.

    Attributes:
        path: the module's path.
        number: 0 for its first call, 1 for the second, ...
        module: the module.
        method: which function a FloatFunctional computed, None for other modules.
        inputs: (label, tensor) of each tensor argument, nested ones as `0-1`.
        input_quantizers: what gave each of them its scale, None where it is float.
        outputs: (label, tensor) of each result; the label is "" for a single one.
        quantizer: what gives the result its scale, None where it is float (or a high-precision int32).
    """

    path: str
    number: int
    module: nn.Module
    method: str | None
    inputs: tuple[tuple[str, Tensor], ...]
    input_quantizers: tuple[FakeQuantizeBase | None, ...]
    outputs: tuple[tuple[str, Tensor], ...]
    quantizer: FakeQuantizeBase | None

    @property
    def name(self) -> str:
        """The path; later calls get `(1)`, `(2)`."""
        return f"{self.path}({self.number})" if self.number else self.path


def owns_output(module: nn.Module) -> bool:
    """Whether the module's result has (or could have had) a scale of its own."""
    post = getattr(module, "activation_post_process", False)
    return post is None or isinstance(post, FakeQuantizeBase)


def operators(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of every module that is an operator of its own: no container, no part of a fused or fake one."""
    within = ""
    for path, module in model.named_modules():
        if not path or (within and path.startswith(within)) or isinstance(module, FakeQuantizeBase):
            continue
        if path.rpartition(".")[2] == "activation_post_process":
            continue
        if isinstance(module, Fused):
            within = f"{path}."
        if isinstance(module, Weighted | FloatFunctional | Fused) or owns_output(module) or _is_known_leaf(module):
            yield path, module


def _is_known_leaf(module: nn.Module) -> bool:
    return not list(module.children()) and torch_ops.of_module(module) is not torch_ops.UNKNOWN


class _Scales(TorchFunctionMode):
    """Follows fake quantizers through functions that pass values on; keeps tensors alive, so that ids stay theirs."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[Tensor, FakeQuantizeBase]] = {}

    def of(self, tensor: Tensor) -> FakeQuantizeBase | None:
        entry = self._known.get(id(tensor))
        return entry[1] if entry is not None else None

    def note(self, value: Any, quantizer: FakeQuantizeBase | None) -> None:
        for _, tensor in labelled(value):
            if quantizer is not None:
                self._known[id(tensor)] = tensor, quantizer
            else:
                self._known.pop(id(tensor), None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch_ops.passes_on(func):
            source = next((q for _, t in labelled(args) if (q := self.of(t)) is not None), None)
            self.note(result, source)
        return result


def record(model: nn.Module, example_inputs: Any, look: Callable[[Call], Any] | None = None) -> list[Call]:
    """The calls of one forward in order; tensors are detached copies.

    Args:
        model: float, calibrated or QAT model.
        example_inputs: one batch.
        look: called with each call; what it returns, if anything, takes the place of the module's result.
    """
    calls: list[Call] = []
    counts: Counter[str] = Counter()
    scales = _Scales()

    def hook(path: str) -> Callable[..., Any]:
        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            given = labelled((*args, *kwargs.values()))
            quantizers = tuple(scales.of(t) for _, t in given)
            post = getattr(module, "activation_post_process", None)
            own = post if isinstance(post, FakeQuantizeBase) else None
            if isinstance(module, InputScale):
                own = module.scale_source
            elif not (owns_output(module) or is_dequant_stub(module) or isinstance(module, DeQuantStub)):
                own = next((scales.of(t) for _, t in labelled(output)), None)
            method = str(kwargs.get("method", "add")) if isinstance(module, FloatFunctional) else None
            call = Call(
                path, counts[path], module, method, copies(given), quantizers, copies(labelled(output)),
                own,
            )  # fmt: skip
            counts[path] += 1
            calls.append(call)
            replaced = look(call) if look is not None else None
            scales.note(output if replaced is None else replaced, call.quantizer)
            return replaced

        return note

    with hooked(model, hook), torch.no_grad(), scales:
        model(*examples(example_inputs))
    return calls


@contextlib.contextmanager
def hooked(model: nn.Module, make: Callable[[str], Callable[..., Any]]) -> Iterator[None]:
    """Forward hooks on every operator of a model, `make(path)` each."""
    handles = [module.register_forward_hook(make(path), with_kwargs=True) for path, module in operators(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def validating(model: nn.Module) -> Iterator[None]:
    """Eval mode, rounding without observing; everything is as it was afterwards."""
    quantizers = fake_quantizers(model).values()
    flags = [q.flags() for q in quantizers]
    modes = {m: m.training for m in model.modules()}
    model.eval()
    for quantizer in quantizers:
        quantizer.set_state(FakeQuantState.VALIDATION)
    try:
        yield
    finally:
        for quantizer, (observe, round_) in zip(quantizers, flags, strict=True):
            quantizer.enable_observer(observe)
            quantizer.enable_fake_quant(round_)
        for module, mode in modes.items():
            module.training = mode


def labelled(value: Any, label: str = "") -> list[tuple[str, Tensor]]:
    """(label, tensor) of every tensor in nested lists, tuples and dicts; the labels are positions, joined by `-`."""
    if isinstance(value, Tensor):
        return [(label, value)]
    if not _pytree.tree_is_leaf(value):
        items = value.values() if isinstance(value, dict) else value
        stem = f"{label}-" if label else ""
        return [found for i, v in enumerate(items) for found in labelled(v, f"{stem}{i}")]
    return []


def copies(found: list[tuple[str, Tensor]]) -> tuple[tuple[str, Tensor], ...]:
    """The same, detached and safe from in-place readers."""
    return tuple((label, t.detach().clone()) for label, t in found)
