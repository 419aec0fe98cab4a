"""An INTEGER graph of one operator on integers of one's choice, run by definition and in stock onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.ir.onnx_session import make_session
from hbtool.numerics.int_math import NumpyMath
from hbtool.numerics.qtype import QParams, int_type
from hbtool.ops.op import IntegerOp, write_attributes
from hbtool.passes.to_standard_onnx import to_standard_onnx


def _value(name: str, array: np.ndarray, constant: bool) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name) if constant else None)
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    if array.dtype.kind == "i" and array.dtype != np.int64:
        meta.set_qparams(value, QParams(int_type(str(array.dtype)), (1.0,)))
    return value


def both(
    op: type[IntegerOp],
    operands: Sequence[np.ndarray | None],
    attributes: Any = None,
    constants: Mapping[int, bool] | Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """(by definition, in onnxruntime); operands at the positions in `constants` are initializers."""
    attributes = op.Attributes() if attributes is None else attributes
    want = np.asarray(op().kernel(NumpyMath(), attributes, *operands))
    values = [None if a is None else _value(f"x{i}", a, i in constants) for i, a in enumerate(operands)]
    out = _value("y", want, False)
    node = ir.Node(graph.INTEGER_DOMAIN, op.name, values, write_attributes(attributes), outputs=[out], name="op")
    inputs = [v for v in values if v is not None and v.const_value is None]
    initializers = [v for v in values if v is not None and v.const_value is not None]
    built = ir.Graph(
        inputs,
        [out],
        nodes=[node],
        initializers=initializers,
        name="one",
        opset_imports={"": 21, graph.INTEGER_DOMAIN: 1},
    )
    feeds = {f"x{i}": a for i, a in enumerate(operands) if a is not None and i not in constants}
    got = make_session(to_standard_onnx(ir.Model(built, ir_version=10))).run(None, feeds)[0]
    return want, np.asarray(got)
