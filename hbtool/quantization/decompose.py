"""Writes calls out that are several operators to the BPU, before anything is rewritten.

| written | becomes |
|---|---|
| `F.glu(x, 1)` | `a * sigmoid(b)` of the halves |
| `torch.stack([a, b], d)` | `cat` of `unsqueeze(d)` |
| `torch.where(m, x, 3)` | x with 3 where the mask is not set |
| `clamp(x, lo, hi)` with tensors | `minimum(maximum(x, lo), hi)` |
| `F.normalize(x)` | x over the root of its sum of squares |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from hbtool.nn.same_scale import fill_unselected
from hbtool.quantization.tracing import QuantGraphModule, is_number


def _glu(input: Any, dim: int = -1) -> Any:
    halves = torch.chunk(input, 2, dim)
    return halves[0] * torch.sigmoid(halves[1])


def _stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    return torch.cat([t.unsqueeze(dim) for t in tensors], dim)


def _where(condition: Any, input: Any = None, other: Any = None) -> Any:
    if is_number(other) and isinstance(input, fx.Proxy):
        return fill_unselected(input, condition, float(other))
    if is_number(input) and isinstance(other, fx.Proxy):
        return torch.masked_fill(other, condition, float(input))  # type: ignore[call-overload]
    return None


def _clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    if not isinstance(min, fx.Proxy) and not isinstance(max, fx.Proxy):
        return None
    for bound, function, one_sided in ((min, torch.maximum, "min"), (max, torch.minimum, "max")):
        if isinstance(bound, fx.Proxy):
            input = function(input, bound)  # type: ignore[arg-type]
        elif bound is not None:
            input = torch.clamp(input, **{one_sided: bound})
    return input


def _normalize(input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Any:
    if p != 2.0:
        return None
    return input / torch.sqrt(torch.sum(input * input, dim, True)).clamp(min=eps)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    F.glu: _glu,
    torch.stack: _stack,
    torch.where: _where,
    torch.clamp: _clamp,
    torch.clip: _clamp,
    "clamp": _clamp,
    "clip": _clamp,
    F.normalize: _normalize,
}


def _proxies(value: Any, tracer: Any) -> Any:
    make: Any = lambda n: fx.Proxy(n, tracer)  # noqa: E731 - the stubs expect plain arguments
    return fx.map_arg(value, make)


def decompose(model: QuantGraphModule) -> None:
    """Write out the calls of the table above in the graph of `model`."""
    tracer = fx.proxy.GraphAppendingTracer(model.graph)
    for node in list(model.graph.nodes):
        written = _FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None
        if written is None:
            continue
        before = set(model.graph.nodes)
        with model.graph.inserting_before(node):
            result = written(*_proxies(node.args, tracer), **_proxies(node.kwargs, tracer))
        if result is None:
            continue
        for made in model.graph.nodes:
            if made not in before:
                made.meta = dict(node.meta)
        node.replace_all_uses_with(result.node)
        model.graph.erase_node(node)
