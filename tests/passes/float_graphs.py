"""Float graphs from text, and what one pass makes of them: the operators left, with the outputs checked to be equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.ir.load import infer_shapes, prepare_model
from hbtool.ir.onnx_session import make_session
from hbtool.passes.simplify import drop_dead

Rewrite = Callable[[ir.Model], bool]
HEADER = '<ir_version: 10, opset_import: ["": 21]>\n'


@dataclass(frozen=True)
class Case:
    """A graph and what should become of it.

    Attributes:
        name: what the case shows.
        text: ONNX text of the graph; its constants are named in `constants`.
        after: the operators afterwards, in order.
        constants: arrays of initializers by name.
    """

    name: str
    text: str
    after: str
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def weights(*shape: int, seed: int = 1) -> np.ndarray:
    """Random numbers away from zero."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape)).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    """A constant of axes, shapes or indices."""
    return np.asarray(values, np.int64)


def float_graph(case: Case) -> ir.Model:
    """The FLOAT graph of a case, as the loader gives it."""
    proto = onnx.parser.parse_model(HEADER + case.text)
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in case.constants.items())
    return prepare_model(proto, case.name)


def operators(model: ir.Model) -> str:
    """The operators of a graph, in order."""
    return " ".join(node.op_type for node in model.graph)


def run(model: ir.Model) -> list[np.ndarray]:
    """The outputs for fixed random inputs."""
    rng = np.random.default_rng(7)
    feeds = {v.name: rng.uniform(-2, 2, tuple(v.shape)).astype(np.float32) for v in model.graph.inputs}  # type: ignore[arg-type]
    return [np.asarray(a) for a in make_session(model, optimize=False).run(None, feeds)]


def check(rewrite: Rewrite, case: Case) -> ir.Model:
    """Apply the pass until nothing changes; operators, outputs and their names must be as stated."""
    model = float_graph(case)
    before, expected = operators(model), run(model)
    names = [v.name for v in model.graph.outputs]
    rounds = 0
    while rewrite(model):
        rounds += 1
        assert rounds < 10, "the pass never comes to rest"
        infer_shapes(model)
    drop_dead(model)
    assert (rounds > 0) == (before != case.after), "the pass says whether it changed something"
    assert operators(model) == case.after
    assert [v.name for v in model.graph.outputs] == names
    onnx.checker.check_model(ir.to_proto(model))
    for actual, wanted in zip(run(model), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=2e-5, atol=2e-5)
    return model
