"""A model of one operator from its sample, taken through ranging and lowering."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from hbtool.ops.op import Sample
from hbtool.numerics.ranges import Range
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges, values_to_observe
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.place import PlacementRequest, place
from hbtool.runtime.onnx_session import make_session


def float_model(sample: Sample) -> ir.Model:
    """The float model of a sample: inputs x0, x1, ..., outputs y0, ..."""
    names, initializers, inputs = [], [], []
    computed = iter(sample.inputs)
    count = len(sample.inputs) + len(sample.constants)
    for position in range(max([count - 1, *sample.constants], default=-1) + 1):
        if position in sample.constants:
            array = np.asarray(sample.constants[position])
            if array.size == 0 and array.dtype == np.float32:
                names.append("")
                continue
            initializers.append(numpy_helper.from_array(array, f"c{position}"))
            names.append(f"c{position}")
        elif (array := next(computed, None)) is not None:
            inputs.append(helper.make_tensor_value_info(f"x{position}", onnx.TensorProto.FLOAT, array.shape))
            names.append(f"x{position}")
        else:
            names.append("")
    outputs = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(sample.outputs)]
    node = helper.make_node(
        sample.op_type, names, [o.name for o in outputs], name="op", domain=sample.domain, **sample.attributes
    )
    graph = helper.make_graph([node], "one_op", inputs, outputs, initializers)
    opset = 22 if sample.op_type not in ("Swish",) else 24
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def feeds_of(model: ir.Model, sample: Sample) -> dict[str, np.ndarray]:
    return {v.name: a for v, a in zip(model.graph.inputs, sample.inputs, strict=True)}


def lower_sample(
    sample: Sample,
    family: str = "bayes-e",
    options: RangeOptions | None = None,
    channel_ranges: bool = False,
) -> tuple[ir.Model, ir.Model, dict[str, np.ndarray]]:
    """(float model, INTEGER model, float results) of a sample on its own ranges."""
    model = float_model(sample)
    feeds = feeds_of(model, sample)
    floats = dict(zip([o.name for o in model.graph.outputs], make_session(model).run(None, feeds), strict=True))
    place(model, family, PlacementRequest(run_on_bpu=("*",)))
    fuse_clamps(model)
    known = {**feeds, **floats}
    ranges = {}
    for name in values_to_observe(model):
        array = known[name]
        ranges[name] = Range((float(array.min()),), (float(array.max()),))
    attach_ranges(model, ranges, options)
    return model, lower_to_integer(model, family, 15 if family.startswith("bayes") else 24), floats
