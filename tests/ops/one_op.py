"""A model of one operator from its sample, taken through ranging and lowering."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from hbtool.ir import graph, meta
from hbtool.ir.onnx_session import make_session
from hbtool.numerics import qtype
from hbtool.numerics.ranges import Range
from hbtool.ops.op import Family, Sample, float_op
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges, values_to_observe
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.place import PlacementRequest, place


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
            inputs.append(
                helper.make_tensor_value_info(f"x{position}", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            )
            names.append(f"x{position}")
        else:
            names.append("")
    outputs = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(sample.outputs)]
    node = helper.make_node(
        sample.op_type, names, [o.name for o in outputs], name="op", domain=sample.domain, **sample.attributes
    )
    one_op = helper.make_graph([node], "one_op", inputs, outputs, initializers)
    opset = 24 if sample.op_type in ("Swish", "RMSNormalization") else 22
    proto = helper.make_model(one_op, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    model = ir.from_proto(proto)
    if any(graph.known_shape(v) is None for v in model.graph.outputs):
        # Operators that ONNX defines by a function body have no shape inference of their own.
        results = make_session(model).run(None, feeds_of(model, sample))
        for value, array in zip(model.graph.outputs, results, strict=True):
            value.shape = ir.Shape(array.shape)
    return model


def feeds_of(model: ir.Model, sample: Sample) -> dict[str, np.ndarray]:
    return {v.name: a for v, a in zip(model.graph.inputs, sample.inputs, strict=True)}


def family_of(model: ir.Model) -> Family:
    """The first family whose BPU takes the model's one node (bayes-e where none does: the test will say why not)."""
    node = model.graph[0]
    op = float_op(node)
    assert op is not None
    families: tuple[Family, ...] = ("bayes-e", "bayes", "nash", "bernoulli2")
    return next((f for f in families if op.refusal(node, f) is None), "bayes-e")


def lower_sample(
    sample: Sample,
    family: Family | None = None,
    options: RangeOptions | None = None,
    channel_ranges: bool = False,
) -> tuple[ir.Model, ir.Model, dict[str, np.ndarray]]:
    """(float model, INTEGER model, float results) of a sample on its own ranges, on the first family that takes it."""
    model = float_model(sample)
    family = family or family_of(model)
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


def on_quantized_inputs(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The float results where every input that the BPU quantizes first goes to its integers and back.

    What differs from these is the operator's own arithmetic, not the width of its inputs.
    """
    rounded = {}
    for value in model.graph.inputs:
        array, q = feeds[value.name], meta.qparams(value)
        rounded[value.name] = array if q is None else qtype.dequantize(qtype.quantize(array, q), q)
    return dict(zip([o.name for o in model.graph.outputs], make_session(model).run(None, rounded), strict=True))
