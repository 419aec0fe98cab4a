"""Halves of a result that was computed in place, joined again: the block that YOLO networks repeat."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hbtool.calibration.observe import observe
from hbtool.calibration.ranges import Method, ranges_of
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.ir.load import prepare_model
from hbtool.passes.attach_ranges import RangeOptions, values_to_observe
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.place import place
from hbtool.passes.quantize import quantize
from hbtool.passes.simplify import simplify
from hbtool.runtime.reference import run_reference
from hbtool.runtime.simulator import simulate
from hbtool.target.target import load


def split_and_join() -> onnx.ModelProto:
    rng = np.random.default_rng(5)
    weights = {
        "w1": rng.standard_normal((16, 8, 1, 1)).astype(np.float32),
        "w2": rng.standard_normal((8, 8, 3, 3)).astype(np.float32) / 3,
        "w3": rng.standard_normal((6, 24, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Sigmoid", ["a"], ["s"], name="gate"),
        helper.make_node("Mul", ["a", "s"], ["b"], name="act"),
        helper.make_node("Split", ["b"], ["low", "high"], name="split", axis=1, num_outputs=2),
        helper.make_node("Conv", ["high", "w2"], ["c"], name="inner", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["t"], name="inner_gate"),
        helper.make_node("Mul", ["c", "t"], ["d"], name="inner_act"),
        helper.make_node("Concat", ["low", "high", "d"], ["e"], name="join", axis=1),
        helper.make_node("Conv", ["e", "w3"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "split_and_join",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8, 12, 10])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 6, 12, 10])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
@pytest.mark.parametrize("one_scale", [False, True])
def test_the_halves_reach_the_join(level: str, one_scale: bool) -> None:
    target = load("bayes-e")
    model = simplify(prepare_model(split_and_join(), "split_and_join"))
    place(model, target.family)
    fuse_clamps(model)
    feeds = {"x": np.random.default_rng(6).standard_normal((1, 8, 12, 10)).astype(np.float32)}
    names = values_to_observe(model)
    ranges = dict(ranges_of(observe(model, names, [feeds]), Method("max")))
    if one_scale:
        # Then nothing is requantized before the join, and all three parts may lie in it from the start.
        ranges = dict.fromkeys(ranges, max(ranges.values(), key=lambda r: r.threshold))
    integer = quantize(model, ranges, RangeOptions(), target.family, target.multiplier_bits).integer
    expected = run_reference(integer, feeds)
    programs = {p.program.name: p for p in compile_model(integer, target, CompileOptions(level))}
    got = run_reference(integer, feeds, run_bpu=lambda s, f: simulate(programs[s.name], target, f).outputs)
    np.testing.assert_array_equal(got["y"], expected["y"])
