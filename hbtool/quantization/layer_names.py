"""The names that layers have in a traced model of the vendor's plugin: `_<module path>_<kernel>`.

`features.3_generated_add_0` fused into a convolution is `_features_3_generated_add_0_hz_conv2d`; a FloatFunctional the
user wrote contributes only its parent's path (`mul_op` at the root: `_hz_mul`); a second call adds `_1`.
"""

from __future__ import annotations

import json
from collections import Counter

import onnx_ir as ir
from torch import nn

from hbtool.ir import graph, meta
from hbtool.nn.functional_module import FloatFunctional

_FUNCTIONALS = "hbtool.functionals"

_KERNELS = {
    "Conv": "hz_conv2d",
    "Gemm": "hz_linear",
    "MatMul": "hz_matmul",
    "Add": "hz_add",
    "Sub": "hz_sub",
    "Mul": "hz_mul",
    "Concat": "hz_cat",
    "ReduceSum": "hz_sum",
    "ReduceMean": "hz_mean",
    "Resize": "hz_interpolate",
    "AveragePool": "hz_avg_pool2d",
    "GlobalAveragePool": "hz_avg_pool2d",
    "MaxPool": "hz_max_pool2d",
    "Relu": "aten_relu",
    "Split": "aten_split",
    "ReduceMax": "aten_max_val",
    "ArgMax": "aten_max_arg",
    "Table": "hz_lut",
    "SegmentTable": "hz_segment_lut",
}
"""ONNX operator (or integer operator, for tables) -> kernel."""


def note_functionals(integer: ir.Model, model: nn.Module) -> None:
    """Write into an INTEGER graph which module paths are FloatFunctionals that the user wrote."""
    paths = [p for p, m in model.named_modules() if isinstance(m, FloatFunctional) and "_generated_" not in p]
    integer.metadata_props[_FUNCTIONALS] = json.dumps(paths)


def layer_names(integer: ir.Model) -> dict[str, str]:
    """Node name -> the vendor's layer name, for every node that has a torch module."""
    functionals = set(json.loads(integer.metadata_props.get(_FUNCTIONALS, "[]")))
    counts: Counter[str] = Counter()
    found = {}
    for node in integer.graph:
        name, path = graph.node_name(node), meta.torch_module(node)
        if path is None or node.domain != graph.INTEGER_DOMAIN:
            continue
        written = name.rpartition("/")[2].split("_")[0]
        kernel = _KERNELS.get(node.op_type if node.op_type.endswith("Table") else written, f"hz_{node.op_type.lower()}")
        owner = path.rpartition(".")[0] if path in functionals else path
        parts = ["", *(owner.split(".") if owner else []), kernel]
        made = "_".join(parts)
        found[name] = f"{made}_{counts[made]}" if counts[made] else made
        counts[made] += 1
    return found
