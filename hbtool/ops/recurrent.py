"""LSTM, GRU and RNN as a chain, step by step: matrix products, tables, sums and products of the gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.numerics.qtype import INT8, INT16
from hbtool.ops.boundary import requantized
from hbtool.ops.chain import Chain, Matrix
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.op import FloatOp, Sample, constraint
from hbtool.ops.table import FUNCTIONS

SATURATED = {INT8: 6.0, INT16: 12.0}
"""Sigmoid and tanh are flat beyond: what a gate reads needs no larger range. By the width of the chain."""

LARGEST_CELL = {INT8: 8.0, INT16: 64.0}
"""Where the cell of an LSTM saturates; it grows by at most 1 in a step."""


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return FUNCTIONS["Sigmoid"](x, lambda _, default: default)


def _tanh(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.tanh(x))


@dataclass(frozen=True)
class State:
    """What a direction carries from step to step: integers [batch, hidden], None for zeros."""

    hidden: ir.Value | None = None
    cell: ir.Value | None = None


class _Weights:
    """The weights of one direction on the machine.

    Attributes:
        chain: where links are emitted.
        hidden: size of the hidden state.
        count: gates; rows of W and R come gate by gate.
        apart: bias of the last gate's recurrent product where that stands alone (GRU), else None.
    """

    def __init__(self, chain: Chain, node: ir.Node, direction: int, x: ir.Value, last_apart: bool) -> None:
        self.chain = chain
        self.hidden = graph.attribute(node, "hidden_size")
        w, r = (_constant(node, i)[direction] for i in (1, 2))
        self.count = len(w) // self.hidden
        bias, carried = self._biases(node, direction, last_apart)
        self.apart = carried[-self.hidden :] if last_apart else None
        self._input = Matrix(chain, w.T, bias, "W")
        self._carried = Matrix(chain, r.T, carried if last_apart else None, "R")
        # What is carried adds at most this to a gate; the hidden state lies in [-1, 1] after the first step.
        self._largest = float(np.abs(r).sum(axis=1).max(initial=0.0) + np.abs(carried).max(initial=0.0))
        own = chain.reach(x) * float(np.abs(w).sum(axis=1).max(initial=0.0)) + float(np.abs(bias).max(initial=0.0))
        self.gate = chain.within(min(own + self._largest, SATURATED[chain.wide]))
        self._from_input = chain.within(min(own, SATURATED[chain.wide] + self._largest))

    def _biases(self, node: ir.Node, direction: int, last_apart: bool) -> tuple[np.ndarray, np.ndarray]:
        """(added to the input's product, added to the carried one)."""
        size = self.count * self.hidden
        b = graph.constant(graph.input_at(node, 3))
        wide = np.zeros(2 * size, np.float64) if b is None else b[direction].astype(np.float64)
        split = size - self.hidden if last_apart else size
        carried = np.where(np.arange(size) < split, 0.0, wide[size:])
        return wide[:size] + wide[size:] - carried, carried

    def of_input(self, rows: ir.Value) -> ir.Value:
        """The input's part of all gates of all steps: [steps * batch, gates * hidden] of [steps * batch, inputs]."""
        return self._input.product(rows, self._from_input)

    def of_state(self, hidden: ir.Value | None) -> ir.Value | None:
        """The carried part of all gates; None where there is nothing to carry."""
        if hidden is None:
            return None
        return self._carried.product(hidden, self.chain.within(self._largest * max(1.0, self.chain.reach(hidden))))

    def gates(self, value: ir.Value, first: int, last: int) -> ir.Value:
        """Gates `first` to `last` (not included) of all."""
        return self.chain.part(value, 1, first * self.hidden, last * self.hidden)

    def summed(self, own: ir.Value, carried: ir.Value | None) -> ir.Value:
        """What a gate's function reads."""
        return own if carried is None else self.chain.add(own, carried, self.gate)


Step = Callable[[_Weights, ir.Value, State], State]


class _Recurrent(FloatOp):
    """What the three operators share."""

    error_steps = 4.0
    int16_inputs = (5, 6)
    int16_states = (1, 2)
    activations: ClassVar[tuple[str, ...]]
    rule_text = (
        "step by step, int16 inside: int8 weights per gate row, int32 bias and accumulator; gates by tables; the "
        "hidden state in [-1, 1]; the sum of a gate saturates at +-12"
    )

    @constraint()
    def constant_weights(self, node: ir.Node, limit: Any) -> bool | str:
        """constant weights and biases"""
        values = [node.inputs[1], node.inputs[2], graph.input_at(node, 3)]
        return all(v is None or graph.constant(v) is not None for v in values) or "they are computed"

    @constraint("bernoulli2", "bayes", "bayes-e")
    def single(self, node: ir.Node, limit: Any) -> bool | str:
        """a batch of 1"""
        batch = graph.static_shape(node.inputs[0])[1]  # type: ignore[arg-type]
        return batch == 1 or f"it is {batch}"

    @constraint(bernoulli2=256, bayes=256, bayes_e=256, nash=256)
    def steps(self, node: ir.Node, limit: int) -> bool | str:
        """at most {limit} time steps, each of which has instructions of its own"""
        count = graph.static_shape(node.inputs[0])[0]  # type: ignore[arg-type]
        return count <= limit or f"there are {count}"

    @constraint()
    def whole_sequences(self, node: ir.Node, limit: Any) -> bool | str:
        """sequences of full length (no sequence_lens, or all equal to the number of time steps)"""
        given = graph.input_at(node, 4)
        if given is None:
            return True
        lengths = graph.constant(given)
        if lengths is None:
            return "sequence_lens is computed"
        count = graph.static_shape(node.inputs[0])[0]  # type: ignore[arg-type]
        return bool((lengths == count).all()) or "a sequence is shorter"

    @constraint()
    def usual_form(self, node: ir.Node, limit: Any) -> bool | str:
        """the usual activations, layout 0, and neither clip, input_forget nor peepholes"""
        found = graph.attribute(node, "activations")
        if found and any(name.lower() != a for name, a in zip(found, self.activations * 2, strict=False)):
            return f"the activations are {', '.join(found)}"
        peepholes = graph.input_at(node, 7)
        if peepholes is not None and not _is_zero(peepholes):
            return "it has peepholes"
        odd = [n for n in ("clip", "input_forget", "layout") if graph.attribute(node, n)]
        return not odd or f"it has {odd[0]}"

    @constraint("bernoulli2")
    def starts_at_zero(self, node: ir.Node, limit: Any) -> bool | str:
        """initial states of zero, as 8 bits are too few for a state that goes round"""
        states = [graph.input_at(node, i) for i in (5, 6)]
        return all(v is None or _is_zero(v) for v in states) or "they are given"

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:
        return tuple(i for i in super().quantized_inputs(node) if i in (0, 5, 6))

    def step(self, node: ir.Node) -> Step:
        """One step of this operator."""
        raise NotImplementedError

    def last_apart(self, node: ir.Node) -> bool:
        """Whether the carried product of the last gate has a bias of its own and is not summed with the input's."""
        return False

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:
        chain, x = Chain(b), b.x(node.inputs[0])
        count, batch, _ = graph.static_shape(x)
        rows = chain.reshape(x, (count * batch, graph.static_shape(x)[2]))
        kind = graph.attribute(node, "direction", "forward")
        directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[kind]
        runs = []
        for index, backwards in enumerate(directions):
            weights = _Weights(chain, node, index, x, self.last_apart(node))
            runs.append(_run(weights, self.step(node), rows, (count, batch), _initial(chain, node, index), backwards))
        shape = (count, 1, batch, graph.attribute(node, "hidden_size"))
        if _is_used(node, 0):
            joined = [chain.reshape(chain.join([s.hidden for s in run], 0), shape) for run in runs]  # type: ignore[misc]
            _deliver(b, node, 0, chain.join(joined, 1))
        ends = [run[0 if backwards else -1] for run, backwards in zip(runs, directions, strict=True)]
        for index, finals in ((1, [s.hidden for s in ends]), (2, [s.cell for s in ends])):
            if _is_used(node, index):
                _deliver(b, node, index, chain.join([chain.reshape(v, shape[1:]) for v in finals], 0))  # type: ignore[arg-type]


def _run(
    weights: _Weights, step: Step, rows: ir.Value, size: tuple[int, int], state: State, backwards: bool
) -> list[State]:
    """The states of all steps of one direction, in the order of the sequence."""
    count, batch = size
    gates, states = weights.of_input(rows), [State()] * count
    for at in reversed(range(count)) if backwards else range(count):
        state = step(weights, weights.chain.part(gates, 0, at * batch, (at + 1) * batch), state)
        states[at] = state
    return states


def _initial(chain: Chain, node: ir.Node, direction: int) -> State:
    """The given initial states of one direction."""

    def of(position: int) -> ir.Value | None:
        value = graph.input_at(node, position)
        if value is None or _is_zero(value):
            return None
        shape = graph.static_shape(value)[1:]
        array = graph.constant(value)
        if array is not None:
            return chain.const(array[direction], f"initial_{position}")
        return chain.reshape(chain.part(chain.b.x(value), 0, direction, direction + 1), shape)

    return State(of(5), of(6))


def _deliver(b: IntegerBuilder, node: ir.Node, index: int, integers: ir.Value) -> None:
    result = b.result(node, index)
    if requantized(b, integers, result.q, result.value) is integers:
        b.bind(result.value, integers)


def _is_used(node: ir.Node, index: int) -> bool:
    return index < len(node.outputs) and bool(node.outputs[index].uses() or node.outputs[index].is_graph_output())


def _is_zero(value: ir.Value) -> bool:
    array = graph.constant(value)
    return array is not None and not array.any()


def _constant(node: ir.Node, position: int) -> np.ndarray:
    array = graph.constant(node.inputs[position])
    assert array is not None, "the weights are constants"
    return array.astype(np.float64)


# ----------------------------------------------------------------------------------------------------- the operators


class LstmFloat(_Recurrent):
    """ONNX LSTM; rows of the weights by gate: input, output, forget, cell."""

    op_types = ("LSTM",)
    activations = ("sigmoid", "tanh", "tanh")
    rule_text = (
        f"{_Recurrent.rule_text}, the cell at +-64. On bernoulli2 int8 inside, +-6 and +-8: the error there is some "
        "ten steps"
    )

    def step(self, node: ir.Node) -> Step:  # noqa: D102
        return _lstm_step

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        yield from _samples("LSTM", 4, 2)


def _lstm_step(weights: _Weights, own: ir.Value, state: State) -> State:
    """c = forget * c + input * tanh(cell gate); h = output * tanh(c)."""
    chain = weights.chain
    summed = weights.summed(own, weights.of_state(state.hidden))
    opened = chain.table(weights.gates(summed, 0, 3), _sigmoid, chain.within(1.0))
    new = chain.table(weights.gates(summed, 3, 4), _tanh, chain.within(1.0))
    enter, leave, keep = (weights.gates(opened, i, i + 1) for i in range(3))
    if state.cell is None:
        cell = chain.mul(enter, new, chain.within(1.0))
    else:
        before = chain.reach(state.cell)
        # Few different ranges, so that few different tables are needed: powers of two.
        largest = min(2.0 ** np.ceil(np.log2(before + 1.0)), max(LARGEST_CELL[chain.wide], before))
        kept = chain.mul(keep, state.cell, chain.within(before))
        cell = chain.add(kept, chain.mul(enter, new, chain.within(1.0)), chain.within(float(largest)))
    hidden = chain.mul(leave, chain.table(cell, _tanh, chain.within(1.0)), chain.within(1.0))
    return State(hidden, cell)


class GruFloat(_Recurrent):
    """ONNX GRU; rows of the weights by gate: update, reset, hidden."""

    op_types = ("GRU",)
    families = ("nash",)
    activations = ("sigmoid", "tanh")

    def last_apart(self, node: ir.Node) -> bool:  # noqa: D102
        return bool(graph.attribute(node, "linear_before_reset", 0))

    def step(self, node: ir.Node) -> Step:  # noqa: D102
        return _gru_step

    @constraint()
    def linear_before_reset(self, node: ir.Node, limit: Any) -> bool | str:
        """linear_before_reset of 1, as torch exports it"""
        return bool(graph.attribute(node, "linear_before_reset", 0)) or "it is 0"

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        yield from _samples("GRU", 3, 1, {"linear_before_reset": 1})


def _gru_step(weights: _Weights, own: ir.Value, state: State) -> State:
    """n = tanh(own + reset * carried); h = n + update * (h - n)."""
    chain, carried = weights.chain, weights.of_state(state.hidden)
    opened = chain.table(
        weights.summed(weights.gates(own, 0, 2), None if carried is None else weights.gates(carried, 0, 2)),
        _sigmoid,
        chain.within(1.0),
    )
    update, reset = weights.gates(opened, 0, 1), weights.gates(opened, 1, 2)
    assert weights.apart is not None
    last = chain.const(weights.apart[None], "bias") if carried is None else weights.gates(carried, 2, 3)
    let_through = chain.mul(reset, last, chain.within(chain.reach(last)))
    new = chain.table(chain.add(weights.gates(own, 2, 3), let_through, weights.gate), _tanh, chain.within(1.0))
    if state.hidden is None:
        return State(chain.add(new, chain.mul(update, new, chain.within(1.0)), chain.within(1.0), -1.0))
    reach = max(1.0, chain.reach(state.hidden))
    away = chain.add(state.hidden, new, chain.within(reach + 1.0), -1.0)
    return State(chain.add(new, chain.mul(update, away, chain.within(reach + 1.0)), chain.within(reach)))


class RnnFloat(_Recurrent):
    """ONNX RNN with tanh."""

    op_types = ("RNN",)
    families = ("nash",)
    activations = ("tanh",)

    def step(self, node: ir.Node) -> Step:  # noqa: D102
        return _rnn_step

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        yield from _samples("RNN", 1, 1)


def _rnn_step(weights: _Weights, own: ir.Value, state: State) -> State:
    """h = tanh(own + carried)."""
    chain = weights.chain
    summed = weights.summed(own, weights.of_state(state.hidden))
    return State(chain.table(summed, _tanh, chain.within(1.0)))


def _samples(op_type: str, gates: int, states: int, attributes: dict[str, Any] | None = None) -> Iterator[Sample]:
    rng = np.random.default_rng(33)
    hidden, inputs = 8, 6
    base = {"hidden_size": hidden, **(attributes or {})}

    def normal(*shape: int, spread: float = 1.0) -> np.ndarray:
        return (spread * rng.standard_normal(shape)).astype(np.float32)

    def weights(directions: int) -> dict[int, Any]:
        rows = gates * hidden
        return {
            1: normal(directions, rows, inputs, spread=0.5),
            2: normal(directions, rows, hidden, spread=0.4),
            3: normal(directions, 2 * rows, spread=0.3),
        }

    absent = np.zeros(0, np.float32)
    yield Sample("forward", op_type, (normal(7, 1, inputs),), weights(1), base, outputs=1, steps=4.0)
    yield Sample(
        "no bias, reverse",
        op_type,
        (normal(4, 1, inputs),),
        {k: v for k, v in weights(1).items() if k < 3},
        {**base, "direction": "reverse"},
        outputs=1 + states,
        steps=4.0,
    )
    start = {5: normal(2, 1, hidden)} | ({6: 2 * normal(2, 1, hidden)} if states == 2 else {})
    yield Sample(
        "both directions, constant states",
        op_type,
        (normal(3, 1, inputs),),
        {**weights(2), 4: absent, **start},
        {**base, "direction": "bidirectional"},
        outputs=1 + states,
        steps=4.0,
    )
    computed: Sequence[np.ndarray] = (normal(1, 1, inputs), *(normal(1, 1, hidden) for _ in range(states)))
    yield Sample(
        "one step, computed states", op_type, tuple(computed), {**weights(1), 4: absent}, base, 1 + states, steps=4.0
    )
