"""INTEGER graphs of published architectures, for latency work: random weights, ranges of a fixed size.

Latency depends on shapes and placement only, so no calibration is run: every value gets the same range.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from hbtool.compiler.segments import split_segments
from hbtool.ir.load import prepare_model
from hbtool.numerics.color import preprocess_affine
from hbtool.numerics.ranges import Range
from hbtool.ops.op import Family
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges, values_to_observe
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.insert_preprocess import insert_preprocess
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.place import PlacementRequest, place
from hbtool.passes.simplify import simplify

RANGE = Range((-4.0,), (4.0,))


def integer_network(path: Path, family: Family, multiplier_bits: int) -> ir.Model:
    """The INTEGER graph of an architecture file with filled-in weights, fed with NV12 images, Softmax on the BPU."""
    proto = onnx.load(path)
    sys.path.insert(0, str(path.parent))
    try:
        import fill_weights
    finally:
        sys.path.pop(0)
    fill_weights.fill(proto)
    return lowered(proto, str(path), family, multiplier_bits)


def lowered(proto: onnx.ModelProto, name: str, family: Family, multiplier_bits: int) -> ir.Model:
    """The INTEGER graph of a float model, fed with NV12 images, Softmax on the BPU."""
    model = prepare_model(proto, name)
    affine = preprocess_affine("nv12", "rgb", "regular", None, [1 / 255] * 3, None)
    for value in list(model.graph.inputs):
        insert_preprocess(model, str(value.name), affine, "NCHW", True)
    model = simplify(model)
    place(model, family, PlacementRequest(kinds_on_bpu=("Softmax",)))
    fuse_clamps(model)
    ranges: Mapping[str, Range] = dict.fromkeys(values_to_observe(model), RANGE)
    attach_ranges(model, ranges, RangeOptions())
    return lower_to_integer(model, family, multiplier_bits)


def cpu_nodes(model: ir.Model) -> int:
    """Nodes of the graph that stay on the CPU, boundaries not counted."""
    return sum(n.domain != "hbtool" for s in split_segments(model) if s.device == "CPU" for n in s.nodes)
