"""Operators that run whole only stay on chip like any other."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from run_compiled import check_bits

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool import target as targets
from hbtool.compiler.options import CompileOptions
from hbtool.ir.load import prepare_model
from hbtool.numerics.ranges import Range
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges, values_to_observe
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.place import PlacementRequest, place
from hbtool.passes.simplify import simplify


def test_a_channel_shuffle_between_convolutions_moves_nothing_to_ddr() -> None:
    rng = np.random.default_rng(0)
    shape = (1, 64, 40, 40)
    constants = {
        "w1": rng.standard_normal((64, 64, 1, 1)).astype(np.float32) / 8,
        "w2": rng.standard_normal((64, 64, 1, 1)).astype(np.float32) / 8,
        "split": np.array([1, 2, 32, 40, 40]),
        "joined": np.array(shape),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="before"),
        helper.make_node("Reshape", ["a", "split"], ["b"], name="split"),
        helper.make_node("Transpose", ["b"], ["c"], name="shuffle", perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["c", "joined"], ["d"], name="join"),
        helper.make_node("Conv", ["d", "w2"], ["y"], name="after"),
    ]
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "shuffle",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(a, n) for n, a in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    model = simplify(prepare_model(proto, "shuffle"))
    place(model, "bayes-e", PlacementRequest())
    attach_ranges(model, dict.fromkeys(values_to_observe(model), Range((-4.0,), (4.0,))), RangeOptions())
    integer = lower_to_integer(model, "bayes-e", 15)
    feeds = {"x": rng.standard_normal(shape).astype(np.float32)}
    for level in ("O1", "O2", "O3"):
        (program,) = check_bits(integer, feeds, targets.load("bayes-e"), CompileOptions(level))
        assert not [r.name for r in program.regions if r.kind == "spill"], level
