"""How many output codes of a QAT model the fixed-point model reproduces, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from hbtool.errors import UsageError
from hbtool.ir import meta
from hbtool.numerics.qtype import QParams
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.quantization.lowering import freeze
from hbtool.quantization.observed import ObservedGraphModule
from hbtool.quantization.onnx_graph import quantized_values
from hbtool.quantization.program import Program
from hbtool.quantization.tracing import copy_model


@dataclass(frozen=True)
class LayerAgreement:
    """One quantized value.

    Attributes:
        name: path of the module that computes it; repeated calls get ` (1)`, ` (2)`.
        elements: how many there are.
        identical: how many have the same integer code in both models.
        largest_steps: largest difference, in output steps.
    """

    name: str
    elements: int
    identical: int
    largest_steps: int

    @property
    def rate(self) -> float:
        """Share of identical codes, 0..1."""
        return self.identical / self.elements if self.elements else 1.0


@dataclass(frozen=True)
class Agreement:
    """All layers in the order of the graph, and the model's outputs.

    Attributes:
        layers: one row per quantized value that both models have.
        outputs: share of bit-identical float outputs, 0..1.
    """

    layers: tuple[LayerAgreement, ...]
    outputs: float

    @property
    def rate(self) -> float:
        """Share of identical codes over all layers, 0..1."""
        total = sum(row.elements for row in self.layers)
        return sum(row.identical for row in self.layers) / total if total else 1.0


@torch.no_grad()
def agreement(qat_model: ObservedGraphModule, *inputs: Tensor) -> Agreement:
    """Compare a QAT model in VALIDATION state with its fixed-point model on the same inputs.

    Every layer sees what its own model computed before it. `qat_model` is not changed.

    Args:
        qat_model: a prepared model with scales.
        inputs: example tensors as forward takes them.

    Raises:
        UsageError: the model was not prepared in fx mode.
    """
    if not isinstance(qat_model, ObservedGraphModule):
        raise UsageError("agreement() needs a model prepared in fx mode.", hint="Use prepare_qat_fx.")
    model = copy_model(qat_model)
    assert isinstance(model, ObservedGraphModule)
    freeze(model)
    program = QuantizedGraphModule(model, model.hb.march, model.hb.hybrid).program(*inputs)
    fixed = integer_values(program, *inputs)
    outputs, seen = _run_recorded(model, list(fixed), inputs)
    rows = []
    for path, integers in fixed.items():
        for index, (value, found) in enumerate(zip(seen[path], integers, strict=True)):
            if found is not None:
                rows.append(_row(path if index == 0 else f"{path} ({index})", value, *found))
    flat = _pytree.tree_leaves(outputs)
    same = sum(int((a == b).sum()) for a, b in zip(flat, program.run(*inputs), strict=True))
    return Agreement(tuple(rows), same / max(sum(t.numel() for t in flat), 1))


def _row(name: str, value: Tensor, fixed: Tensor, q: QParams) -> LayerAgreement:
    codes = torch.div(value, torch.tensor(q.scale, dtype=torch.float32)).round_().to(torch.int64) + q.zero_point
    gap = (codes - fixed.to(torch.int64).view_as(codes)).abs()
    return LayerAgreement(name, gap.numel(), int((gap == 0).sum()), int(gap.max()) if gap.numel() else 0)


def _run_recorded(
    model: ObservedGraphModule, paths: list[str], inputs: tuple[Tensor, ...]
) -> tuple[Any, dict[str, list[Tensor]]]:
    """(outputs, what the modules at `paths` returned in each call)."""
    seen: dict[str, list[Tensor]] = {path: [] for path in paths}
    hooks = []
    for path in paths:

        def note(_: Any, __: Any, y: Tensor, path: str = path) -> None:
            # In-place consumers would change it.
            seen[path].append(y.detach().clone())

        hooks.append(model.get_submodule(path).register_forward_hook(note))
    try:
        return model(*inputs), seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def integer_values(program: Program, *inputs: Tensor) -> dict[str, list[tuple[Tensor, QParams] | None]]:
    """Path of a QAT module -> (integers, meaning) of each of its calls in the program; None where it has no value."""
    found = {}
    for value, tensor in program.run_all(*inputs).items():
        name, q = meta.float_value(value), meta.qparams(value)
        if name is not None and q is not None and q.axis is None:
            found[name] = tensor, q
    return {path: [found.get(n) for n in names] for path, names in quantized_values(program.model).items()}
