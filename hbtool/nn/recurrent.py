"""Recurrent cells as linear layers, tables and products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hbtool.errors import TrainingError
from hbtool.nn.composite import Composite, composite_of
from hbtool.nn.functional_module import FloatFunctional


class _Cell(Composite):
    """Input and hidden state each pass a linear layer that computes all gates at once."""

    gates: int

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.from_input = nn.Linear(input_size, self.gates * hidden_size, bias, device=device)
        self.from_hidden = nn.Linear(hidden_size, self.gates * hidden_size, bias, device=device)

    @classmethod
    def from_torch(cls, cell: Any) -> Any:
        """The composite form of a torch cell; it holds the same parameters."""
        made = cls(cell.input_size, cell.hidden_size, cell.bias, device="meta")
        made.from_input.weight, made.from_hidden.weight = cell.weight_ih, cell.weight_hh
        if cell.bias:
            made.from_input.bias, made.from_hidden.bias = cell.bias_ih, cell.bias_hh
        return made

    def _needs(self, state: Any) -> None:
        if state is None:
            raise TrainingError(
                f"{type(self).__name__} needs its state as an input.",
                hint="Pass the state (zeros at first), through a QuantStub of its own.",
            )


@composite_of(nn.LSTMCell)
class LSTMCell(_Cell):
    """nn.LSTMCell, every step with a scale of its own."""

    gates = 4

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, device)
        self.sum, self.keep, self.write, self.cell = (FloatFunctional() for _ in range(4))
        self.output = FloatFunctional()
        self.input_gate, self.forget_gate, self.output_gate = nn.Sigmoid(), nn.Sigmoid(), nn.Sigmoid()
        self.candidate, self.squash = nn.Tanh(), nn.Tanh()

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """(hidden, cell), each [N, hidden_size], from x [N, input_size] and the state before."""
        self._needs(state)
        hidden, cell = state  # type: ignore[misc]
        total = self.sum.add(self.from_input(x), self.from_hidden(hidden))
        i, f, g, o = torch.chunk(total, 4, 1)
        kept = self.keep.mul(self.forget_gate(f), cell)
        cell = self.cell.add(kept, self.write.mul(self.input_gate(i), self.candidate(g)))
        return self.output.mul(self.output_gate(o), self.squash(cell)), cell


@composite_of(nn.GRUCell)
class GRUCell(_Cell):
    """nn.GRUCell, every step with a scale of its own."""

    gates = 3

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, device)
        self.reset_sum, self.update_sum, self.new_sum, self.reset = (FloatFunctional() for _ in range(4))
        self.difference, self.part, self.output = (FloatFunctional() for _ in range(3))
        self.reset_gate, self.update_gate, self.candidate = nn.Sigmoid(), nn.Sigmoid(), nn.Tanh()

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The next hidden state [N, hidden_size] from x [N, input_size] and the one before."""
        self._needs(hidden)
        assert hidden is not None
        xr, xz, xn = torch.chunk(self.from_input(x), 3, 1)
        hr, hz, hn = torch.chunk(self.from_hidden(hidden), 3, 1)
        reset = self.reset_gate(self.reset_sum.add(xr, hr))
        update = self.update_gate(self.update_sum.add(xz, hz))
        new = self.candidate(self.new_sum.add(xn, self.reset.mul(reset, hn)))
        # (1 - z) n + z h = n + z (h - n)
        return self.output.add(new, self.part.mul(update, self.difference.sub(hidden, new)))
