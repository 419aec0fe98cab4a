"""A vector turned from [1, C, 1, 1] to [1, 1, 1, C]: equal strides, and yet no part of the operand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hbtool.artifact.program_json import read_program, write_program
from hbtool.calibration.observe import observe
from hbtool.calibration.ranges import Method, ranges_of
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.ir.load import prepare_model
from hbtool.passes.attach_ranges import RangeOptions, values_to_observe
from hbtool.passes.place import place
from hbtool.passes.quantize import quantize
from hbtool.passes.simplify import simplify
from hbtool.runtime.reference import run_reference
from hbtool.runtime.simulator import simulate
from hbtool.target.target import load


def turned_vector() -> onnx.ModelProto:
    weight = np.random.default_rng(5).standard_normal((40, 8, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"], name="pool"),
        helper.make_node("Conv", ["p", "w"], ["c"], name="classes"),
        helper.make_node("Transpose", ["c"], ["y"], name="turn", perm=(0, 2, 3, 1)),
    ]
    graph = helper.make_graph(
        nodes,
        "turned_vector",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8, 6, 6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1, 1, 40])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("march", ["bayes-e", "nash-e"])
def test_the_program_stays_inside_its_memory(march: str) -> None:
    target = load(march)
    model = simplify(prepare_model(turned_vector(), "turned_vector"))
    place(model, target.family)
    feeds = {"x": np.random.default_rng(6).standard_normal((1, 8, 6, 6)).astype(np.float32)}
    ranges = dict(ranges_of(observe(model, values_to_observe(model), [feeds]), Method("max")))
    integer = quantize(model, ranges, RangeOptions(), target.family, target.multiplier_bits).integer
    expected = run_reference(integer, feeds)
    compiled = {p.program.name: p for p in compile_model(integer, target, CompileOptions("O2"))}
    for segment in compiled.values():
        assert read_program(write_program(segment.program)) == segment.program  # reading checks every address
    got = run_reference(integer, feeds, run_bpu=lambda s, f: simulate(compiled[s.name], target, f).outputs)
    np.testing.assert_array_equal(got["y"], expected["y"])
