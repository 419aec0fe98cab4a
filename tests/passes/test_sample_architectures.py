"""The sample networks go the whole road: definition, standard ONNX and compiled program give the same bits."""

from __future__ import annotations

import importlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.calibration.observe import observe
from hbtool.calibration.ranges import Method, ranges_of
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.compiler.segments import split_segments
from hbtool.ir import graph, meta
from hbtool.ir.load import load_model
from hbtool.ir.onnx_session import make_session
from hbtool.passes.attach_ranges import RangeOptions, values_to_observe
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.place import INT16_FAMILIES, place
from hbtool.passes.quantize import quantize
from hbtool.passes.simplify import simplify
from hbtool.runtime.reference import run_reference
from hbtool.runtime.simulator import simulate
from hbtool.target.target import load

pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@dataclass(frozen=True)
class Expected:
    """What a network keeps on the CPU of bayes-e, and the smallest cosine similarity of its output."""

    on_cpu: dict[str, int]
    cosine: float


NETWORKS = {
    "dfl_head": Expected({"Reshape": 4, "Concat": 2, "Transpose": 1, "Softmax": 1}, 0.999),
    "unet": Expected({}, 0.999),
    "vit": Expected({"Softmax": 2}, 0.99),
    "swin_block": Expected({"Softmax": 1}, 0.999),
    "lstm_classifier": Expected({"Reshape": 1}, 0.999),
    "grid_sample_block": Expected({}, 0.999),
}


@pytest.fixture(scope="module", params=list(NETWORKS))
def network(request: pytest.FixtureRequest, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    """Export a sample and load it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout / "samples" / "architectures"))
        sample, export = importlib.import_module(request.param), importlib.import_module("export")
        path = tmp_path_factory.mktemp("architectures") / f"{request.param}.onnx"
        export.write(sample.build, sample.INPUTS, str(path))
    model = load_model(path)
    model.graph.name = request.param
    return model


def feeds(model: ir.Model, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        graph.value_name(v): rng.standard_normal(graph.static_shape(v)).astype(np.float32) for v in model.graph.inputs
    }


@pytest.mark.parametrize("march", ["bayes", "bayes-e"])
def test_every_executor_gives_the_same_bits(network: ir.Model, march: str) -> None:
    expected, target = NETWORKS[str(network.graph.name)], load(march)
    sample = feeds(network, 0)
    float_outputs = make_session(network).run(None, sample)
    model = simplify(network)
    for simplified, original in zip(make_session(model).run(None, sample), float_outputs, strict=True):
        np.testing.assert_allclose(simplified, original, rtol=1e-4, atol=1e-4)
    place(model, target.family)
    if march == "bayes-e":
        assert Counter(n.op_type for n in model.graph if not meta.on_bpu(n)) == expected.on_cpu
    fuse_clamps(model)
    ranges = ranges_of(observe(model, values_to_observe(model), [sample, feeds(network, 1)]), Method("max"))
    options = RangeOptions(int16_tail=target.family in INT16_FAMILIES)
    found = quantize(model, ranges, options, target.family, target.multiplier_bits)

    values = run_reference(found.integer, sample, keep=True)
    for value, array, original in zip(
        found.integer.graph.outputs, make_session(found.standard).run(None, sample), float_outputs, strict=True
    ):
        np.testing.assert_array_equal(values[graph.value_name(value)], array)
        cosine = float(np.vdot(array, original) / np.linalg.norm(array) / np.linalg.norm(original))
        assert cosine > expected.cosine

    segments = [s for s in split_segments(found.integer) if s.device == "BPU"]
    for segment, program in zip(segments, compile_model(found.integer, target, CompileOptions()), strict=True):
        entry = {graph.value_name(v): values[graph.value_name(v)] for v in segment.inputs}
        for name, array in simulate(program, target, entry).outputs.items():
            np.testing.assert_array_equal(array, values[name], err_msg=name)
