"""The one place where onnxruntime sessions are made."""

from __future__ import annotations

import os

import onnx
import onnx_ir as ir
import onnxruntime

from hbtool.errors import ModelError
from hbtool.ir.int8_path import PRECISION, needs_option

onnxruntime.set_default_logger_severity(3)


def threads() -> int:
    """Threads per session: HBTOOL_THREADS, or all cores."""
    return int(os.environ.get("HBTOOL_THREADS", "0"))


def make_session(model: ir.Model | onnx.ModelProto | bytes, *, optimize: bool = True) -> onnxruntime.InferenceSession:
    """An onnxruntime CPU session.

    Integer kernels are exact on every CPU: where u8 x s8 products would saturate (no VNNI), the slower exact ones are
    chosen; see `int8_path`.

    Raises:
        ModelError: onnxruntime cannot load the model; the message is onnxruntime's.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads()
    if needs_option():
        options.add_session_config_entry(PRECISION, "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if isinstance(model, ir.Model):
        model = ir.to_proto(model)
    data = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        text = str(error).splitlines()[0]
        raise ModelError(
            f"onnxruntime cannot load the model: {text}", hint="Check the model with onnx.checker."
        ) from error
