"""The fixed-point module: what `convert_fx` returns. It computes in integers, in float on CPU operators only."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from hbtool.errors import TrainingError
from hbtool.quantization.lowering import freeze, integer_graph
from hbtool.quantization.outside import split_outside
from hbtool.quantization.program import Program

_KEPT_PROGRAMS = 8


class QuantizedGraphModule(nn.Module):
    """A converted model; float tensors in, float tensors out, integers between.

    The integer program depends on the input shapes; it is built at the first call with a shape and kept.

    Attributes:
        qat_model: the frozen QAT model the programs are built from.
        tail: what follows the program in float (post-processing outside the compiled model), None for nothing.
        march: BPU generation the programs are for.
    """

    def __init__(self, qat_model: nn.Module, march: str, hybrid: bool) -> None:
        super().__init__()
        self.qat_model, self.tail = split_outside(qat_model)
        self.march = march
        self.hybrid = hybrid
        self._programs: dict[tuple[tuple[int, ...], ...], tuple[Program, Any]] = {}
        freeze(self)

    def program(self, *args: Tensor) -> Program:
        """The integer program for inputs of these shapes."""
        return self._entry(args)[0]

    def integer_graph(self, *args: Tensor) -> ir.Model:
        """The INTEGER graph for inputs of these shapes."""
        return self._entry(args)[0].model

    def _entry(self, args: tuple[Tensor, ...]) -> tuple[Program, Any]:
        key = tuple(tuple(int(n) for n in a.shape) for a in args)
        if key not in self._programs:
            if len(self._programs) >= _KEPT_PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            examples = tuple(
                torch.zeros(shape, device=a.device, dtype=a.dtype) for shape, a in zip(key, args, strict=True)
            )
            with torch.no_grad():
                structure = _structure(self.qat_model(*examples))
            self._programs[key] = Program(integer_graph(self.qat_model, examples, self.march)), structure
        return self._programs[key]

    def forward(self, *args: Tensor) -> Any:
        """The fixed-point outputs, in the structure of the float model's."""
        if not all(isinstance(a, Tensor) for a in args):
            raise TrainingError("a fixed-point model takes tensors only.", hint="Pass every input as a tensor.")
        tracing = torch._C._get_tracing_state() is not None
        with _untraced():
            program, structure = self._entry(args)
            # Made outside the trace, it becomes one plain constant of it.
            data = torch.frombuffer(bytearray(program.to_bytes()), dtype=torch.uint8) if tracing else None
        outputs = program.run(*args) if data is None else torch.ops.hbtool.integer_program(list(args), data)
        results = _pytree.tree_unflatten(list(outputs), structure)
        return results if self.tail is None else self.tail(*results, *args)

    def train(self, mode: bool = True) -> QuantizedGraphModule:
        """Nothing to train: stays in eval mode."""
        super().train(False)
        return self


def _structure(outputs: Any) -> Any:
    leaves, spec = _pytree.tree_flatten(outputs)
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise TrainingError(
            "the model returns something that is no tensor.", hint="Return tensors, or tuples, lists or dicts of them."
        )
    return spec


class _untraced:  # noqa: N801 - reads as a statement
    """Suspends torch.jit.trace: what runs inside leaves no trace."""

    def __enter__(self) -> None:
        self.state = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]

    def __exit__(self, *error: object) -> None:
        torch._C._set_tracing_state(self.state)  # type: ignore[attr-defined]
