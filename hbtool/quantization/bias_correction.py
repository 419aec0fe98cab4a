"""Corrects biases of a calibrated model for the mean error that quantization leaves in each layer's channels.

The torch side of `hbtool.calibration.bias_correction` (M. Nagel et al., 2019, section 4.2): the mean of the float layer
minus the mean of the quantized one, layer after layer in the order of execution, before any activation clamps it. The
quantized graph is walked once, node by node, with all batches at a time, so the cost is about two passes over the data
however many layers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from hbtool.calibration.bias_correction import MEMORY_BYTES, MOST_SAMPLES
from hbtool.errors import DataError, UsageError
from hbtool.nn.intrinsic import Fused
from hbtool.nn.qat.weighted import Weighted
from hbtool.quantization.distributed import all_sum
from hbtool.quantization.observed import ObservedGraphModule, fake_quantizers

Batch = Tensor | Sequence[Any]


@torch.no_grad()
def correct_biases(model: ObservedGraphModule, batches: Iterable[Batch]) -> tuple[str, ...]:
    """Add to each bias what quantization took from the mean of its channel; call it after calibration.

    The float model that `model` was prepared from keeps its biases and is the truth, so a second call changes nothing
    but rounding. A layer without a bias gets one. In several processes each gives its share of the data.

    Args:
        model: result of `prepare_qat_fx` with observed scales, in eval mode and VALIDATION state.
        batches: calibration data, each a tensor or the tuple of forward's arguments; the first 64 samples count, fewer
            where the values between layers would need more than `MEMORY_BYTES`.

    Returns:
        Paths of the layers that were corrected.

    Raises:
        UsageError: the model was not prepared in fx mode, or does not quantize now.
        DataError: no batches.
    """
    if not isinstance(model, ObservedGraphModule):
        raise UsageError("biases are corrected in a model prepared in fx mode.", hint="Use prepare_qat_fx.")
    if model.training or not any(q.flags() == (False, True) for q in fake_quantizers(model).values()):
        raise UsageError(
            "the model does not quantize now.",
            hint="Calibrate, then model.eval() and set_fake_quantize(model, FakeQuantState.VALIDATION).",
        )
    layers = {p: m for p, m in model.named_modules() if isinstance(m, Weighted) and m.weight_fake_quant is not None}
    chosen = _enough(model, batches)
    truth = _float_means(model, layers, chosen)
    corrected: dict[str, None] = {}

    def correct(node: fx.Node, calls: list[tuple[Any, ...]]) -> None:
        path = str(node.target)
        if path in corrected or path not in truth:
            return  # a shared layer: its first call decides
        found = _Means()
        for args in calls:
            found.add(layers[path], layers[path]._layer(args[0]))
        _add_to_bias(layers[path], truth[path].value() - found.value())
        corrected[path] = None

    _walk(model, chosen, correct)
    return tuple(corrected)


def adopt_biases(source: nn.Module, target: nn.Module) -> None:
    """Give the layers of `target` the biases of the layers of the same path in `source`, as values of their own."""
    layers = {path: m for path, m in source.named_modules() if isinstance(m, Weighted)}
    for path, layer in target.named_modules():
        if isinstance(layer, Weighted) and path in layers:
            old, new = _holder(layers[path]).bias, _holder(layer).bias
            if old is not None and (new is None or new.shape == old.shape):
                _set_bias(layer, old.detach().to(layer.weight.device))


class _Means:
    """Mean of each channel over all batches (and processes), float64 [channels]."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None
        self.batches = 0

    def add(self, layer: nn.Module, y: Tensor) -> None:
        """One batch of a layer's results."""
        axis = y.dim() - 1 if isinstance(layer, nn.Linear) else 1
        mean = y.double().mean([i for i in range(y.dim()) if i != axis]) * len(y)
        self.sum = mean if self.sum is None else self.sum + mean
        self.batches += len(y)

    def value(self) -> Tensor:
        """The means."""
        assert self.sum is not None, "every layer was called"
        count = self.sum.new_tensor([float(self.batches)])
        return all_sum(self.sum.clone()) / all_sum(count)


def _arguments(batch: Batch) -> tuple[Any, ...]:
    return (batch,) if isinstance(batch, Tensor) else tuple(batch)


def _enough(model: ObservedGraphModule, batches: Iterable[Batch]) -> list[tuple[Any, ...]]:
    """The first batches, as many as are useful and fit."""
    chosen: list[tuple[Any, ...]] = []
    samples, batch_bytes = 0, 0
    for batch in batches:
        chosen.append(_arguments(batch))
        samples += len(next(a for a in chosen[-1] if isinstance(a, Tensor)))
        batch_bytes = batch_bytes or _walk(model, chosen)
        if samples >= MOST_SAMPLES or (len(chosen) + 1) * batch_bytes > MEMORY_BYTES:
            return chosen
    if not chosen:
        raise DataError("there are no calibration data to correct biases with.", hint="Give the calibration batches.")
    return chosen


def _float_means(
    model: ObservedGraphModule, layers: dict[str, Weighted], batches: list[tuple[Any, ...]]
) -> dict[str, _Means]:
    """Means of what each layer computes in the float model: before a fused sum, before a fused activation."""
    source = model.hb.source
    found: dict[str, _Means] = {}
    hooks = []
    for path, layer in layers.items():
        module = source.get_submodule(path)
        if isinstance(module, Fused):
            module = module.bn if hasattr(module, "bn") else module.conv

        def note(_: nn.Module, __: Any, y: Tensor, path: str = path, layer: nn.Module = layer) -> None:
            if path not in called:
                called.add(path)
                found.setdefault(path, _Means()).add(layer, y)

        hooks.append(module.register_forward_hook(note))
    was_training = source.training
    source.eval()
    try:
        for batch in batches:
            called: set[str] = set()
            source(*batch)
    finally:
        source.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


def _walk(
    model: ObservedGraphModule,
    batches: list[tuple[Any, ...]],
    before_layer: Callable[[fx.Node, list[tuple[Any, ...]]], None] | None = None,
) -> int:
    """Run the graph node by node, each node on all batches; returns the most bytes that values took at a time.

    `before_layer` is called before a layer with the arguments of all its calls.
    """
    runner = fx.Interpreter(model)
    last = {n: node for node in model.graph.nodes for n in node.all_input_nodes}
    live: dict[fx.Node, list[Any]] = {}
    inputs = iter(range(len(batches[0])))
    most = 0
    for node in model.graph.nodes:
        if node.op == "output":
            break
        if node.op == "placeholder":
            live[node] = list(_placeholder(node, next(inputs, None), batches))
            continue
        calls = [_fetched(node, live, i) for i in range(len(batches))]
        is_layer = node.op == "call_module" and isinstance(model.get_submodule(str(node.target)), Weighted)
        if is_layer and before_layer is not None:
            before_layer(node, [args for args, _ in calls])
        live[node] = [getattr(runner, node.op)(node.target, args, kwargs) for args, kwargs in calls]
        most = max(most, sum(_bytes(v) for values in live.values() for v in values))
        for used in node.all_input_nodes:
            if last[used] is node:
                live.pop(used, None)
    return most


def _placeholder(node: fx.Node, index: int | None, batches: list[tuple[Any, ...]]) -> Iterator[Any]:
    for batch in batches:
        yield node.args[0] if index is None and node.args else batch[index or 0]


def _fetched(node: fx.Node, live: dict[fx.Node, list[Any]], index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def value(n: fx.Node) -> Any:
        return live[n][index]

    args, kwargs = fx.node.map_arg(node.args, value), fx.node.map_arg(node.kwargs, value)
    return args, kwargs


def _bytes(value: Any) -> int:
    return sum(t.numel() * t.element_size() for t in _pytree.tree_leaves(value) if isinstance(t, Tensor))


def _add_to_bias(layer: Weighted, addend: Tensor) -> None:
    """A bias of the layer's own: the float model it was prepared from shares the old one."""
    old: Tensor | None = _holder(layer).bias
    _set_bias(layer, addend if old is None else old.detach().double() + addend)


def _holder(layer: Weighted) -> Any:
    return layer._modules.get("bn") or layer


def _set_bias(layer: Weighted, value: Tensor) -> None:
    holder = _holder(layer)
    trains = (layer.weight if holder.bias is None else holder.bias).requires_grad
    holder.bias = nn.Parameter(value.to(layer.weight.dtype, copy=True), requires_grad=trains)


__all__ = ["correct_biases"]
