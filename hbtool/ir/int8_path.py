"""Whether onnxruntime's u8 x s8 kernels are exact on this CPU, found by running them on the largest values.

Without VNNI (or its like) they add pairs of products in 16 bits, which saturates; `session.x64quantprecision` makes
them exact and slower. Where they are exact by themselves the option would only cost time (about 2x).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

PRECISION = "session.x64quantprecision"


@lru_cache(maxsize=2)
def is_exact(with_option: bool) -> bool:
    """Whether convolutions (dense, depthwise, 1x1) and matrix products of extreme integers have no error."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random((1, 64, 14, 14)) < 0.9, 255, 0).astype(np.uint8)
    right = all(_conv(x, shape, with_option, rng) for shape in ((32, 64, 3, 3), (64, 1, 3, 3), (48, 64, 1, 1)))
    return right and _product(x.reshape(64, 196), with_option, rng)


def needs_option() -> bool:
    """Whether sessions must set `PRECISION` to give exact integers on this CPU."""
    return not is_exact(False)


def _extreme(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.where(rng.random(shape) < 0.9, 127, -128).astype(np.int8)


def _conv(x: np.ndarray, shape: tuple[int, ...], with_option: bool, rng: np.random.Generator) -> bool:
    weight = _extreme(rng, shape)
    group = x.shape[1] // shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.int64), shape[2:], axis=(1, 2))
    if group == 1:
        sums = np.einsum("cyxij,ocij->oyx", windows, weight.astype(np.int64))
    else:
        sums = np.einsum("cyxij,cij->cyx", windows, weight[:, 0].astype(np.int64))
    node = helper.make_node(
        "QLinearConv",
        ["x", "one", "zx", "w", "sw", "zw", "one", "zy"],
        ["y"],
        kernel_shape=shape[2:],
        group=group,
    )
    return _run(node, x, weight, shape[0], sums[None], with_option)


def _product(x: np.ndarray, with_option: bool, rng: np.random.Generator) -> bool:
    weight = _extreme(rng, (x.shape[1], 40))
    node = helper.make_node("QLinearMatMul", ["x", "one", "zx", "w", "sw", "zw", "one", "zy"], ["y"])
    return _run(node, x, weight, 40, x.astype(np.int64) @ weight.astype(np.int64), with_option)


def _run(
    node: onnx.NodeProto, x: np.ndarray, weight: np.ndarray, channels: int, sums: np.ndarray, with_option: bool
) -> bool:
    scale = np.float32(255 / max(int(sums.max()), 1))
    arrays = {
        "one": np.float32(1),
        "zx": np.uint8(0),
        "w": weight,
        "sw": np.full(channels, scale, np.float32),
        "zw": np.zeros(channels, np.int8),
        "zy": np.uint8(0),
    }
    constants = [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "probe", [info("x", TensorProto.UINT8, x.shape)], [info("y", TensorProto.UINT8, None)], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if with_option:
        options.add_session_config_entry(PRECISION, "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    want = np.clip(np.rint(sums.astype(np.float32) * scale), 0, 255).astype(np.uint8)
    return bool(np.array_equal(session.run(None, {"x": x})[0], want))
