"""Small convolutional models for the inputs that a configuration names, and tiny random calibration data for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from hbtool.config.schema import LoadedConfig

SIDE = 16
"""Height and width where the configuration leaves them free."""


@dataclass(frozen=True)
class InputNeed:
    """What a configuration says about one input of its model."""

    name: str
    shape: tuple[int, ...]
    is_image: bool
    layout: str


def needs_of(loaded: LoadedConfig) -> list[InputNeed]:
    """The inputs that the model of a configuration must have."""
    p = loaded.input_parameters
    count = max(len([n for n in p.input_name if n]), len(p.input_type_rt), len(p.input_shape))
    needs = []
    for index in range(count):
        name = (p.input_name[index] if index < len(p.input_name) else None) or f"input{index}"
        train = p.input_type_train[index] if index < len(p.input_type_train) else p.input_type_train[0]
        layout = (p.input_layout_train[index] if index < len(p.input_layout_train) else None) or "NCHW"
        channels = 1 if train == "gray" else 3
        free = (1, channels, SIDE, SIDE) if layout == "NCHW" else (1, SIDE, SIDE, channels)
        shape = (p.input_shape[index] if index < len(p.input_shape) else None) or free
        needs.append(InputNeed(name, tuple(shape), train != "featuremap", layout))
    return needs


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(5)

    def const(self, array: np.ndarray) -> str:
        name = f"const{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op_type: str, *inputs: str, name: str = "", **attributes: object) -> str:
        label = name or f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [f"{label}_output"], name=label, **attributes))
        return f"{label}_output"

    def weights(self, *shape: int) -> str:
        return self.const((self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))


def _to_nchw(b: _Builder, need: InputNeed) -> tuple[str, tuple[int, int, int, int]]:
    """An input of any rank as [1, C, H, W]."""
    shape = need.shape
    if len(shape) == 4 and need.layout == "NHWC" and need.is_image:
        n, h, w, c = shape
        return b.node("Transpose", need.name, perm=[0, 3, 1, 2]), (n, c, h, w)
    if len(shape) == 4:
        return need.name, (shape[0], shape[1], shape[2], shape[3])
    size = int(np.prod(shape))
    wide = next((n for n in (64, 32, 16, 8, 4, 2) if size % n == 0), 1)
    target = (1, wide, size // wide, 1)
    return b.node("Reshape", need.name, b.const(np.asarray(target, np.int64))), target


def save_small_model(needs: Sequence[InputNeed], path: Path) -> Path:
    """Per input Conv - Relu - Conv - pooling, then a joint and two heads: Conv - Reshape, Conv - Reshape - Softmax."""
    b = _Builder()
    branches = []
    for need in needs:
        x, (_, channels, height, width) = _to_nchw(b, need)
        strides = [max(1, height // SIDE), max(1, width // SIDE)]
        kernel = [min(3, height), min(3, width)]
        x = b.node("Conv", x, b.weights(4, channels, *kernel), kernel_shape=kernel, strides=strides)
        x = b.node("Relu", x)
        x = b.node("Conv", x, b.weights(6, 4, 1, 1), kernel_shape=[1, 1])
        branches.append(b.node("GlobalAveragePool", x))
    joint = b.node("Concat", *branches, axis=1) if len(branches) > 1 else branches[0]
    head = b.node("Conv", joint, b.weights(10, 6 * len(branches), 1, 1), b.weights(10), kernel_shape=[1, 1])
    batch = needs[0].shape[0] if needs[0].shape and len(needs[0].shape) == 4 else 1
    flat = b.node("Reshape", head, b.const(np.asarray([batch, 10], np.int64)))
    other = b.node("Conv", joint, b.weights(10, 6 * len(branches), 1, 1), b.weights(10), kernel_shape=[1, 1])
    soft = b.node("Softmax", b.node("Reshape", other, b.const(np.asarray([batch, 10], np.int64))), axis=-1)
    proto = helper.make_model(
        helper.make_graph(
            b.nodes,
            "small",
            [helper.make_tensor_value_info(n.name, TensorProto.FLOAT, list(n.shape)) for n in needs],
            [
                helper.make_tensor_value_info(flat, TensorProto.FLOAT, [batch, 10]),
                helper.make_tensor_value_info(soft, TensorProto.FLOAT, [batch, 10]),
            ],
            b.constants,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return path


def settle_in(loaded: LoadedConfig, folder: Path, samples: int = 2) -> LoadedConfig:
    """The configuration as if its files were in `folder`: a small model is made, and random calibration data."""
    needs = needs_of(loaded)
    save_small_model(needs, folder / "model.onnx")
    calibration, model = loaded.config.calibration_parameters, loaded.config.model_parameters
    folders: list[str | None] = []
    for index, text in enumerate(calibration.cal_data_dir):
        if text is None or index >= len(needs):
            folders.append(text)
            continue
        # The folder's own name says what the samples are.
        own = folder / f"data{index}" / Path(text).name
        dtype = calibration.cal_data_type[index] if index < len(calibration.cal_data_type) else None
        _write_samples(loaded, needs[index], own, dtype, samples)
        folders.append(str(own))
    config = loaded.config.model_copy(
        update={
            "model_parameters": model.model_copy(update={"onnx_model": "model.onnx", "working_dir": "out"}),
            "calibration_parameters": calibration.model_copy(update={"cal_data_dir": tuple(folders)}),
        }
    )
    return replace(loaded, config=config, folder=folder)


def _write_samples(loaded: LoadedConfig, need: InputNeed, folder: Path, dtype: str | None, count: int) -> None:
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True)
    if dtype is None:
        floats = folder.name.endswith("_f32") or not need.is_image or loaded.config.march.startswith("nash")
        dtype = "float32" if floats else "uint8"
    for index in range(count):
        if loaded.calibration_parameters.preprocess_on and need.is_image:
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{index}.png")
            continue
        values = (
            rng.integers(0, 100 if dtype == "int8" else 256, need.shape) if need.is_image else rng.random(need.shape)
        )
        values.astype(dtype).tofile(folder / f"{index}.bin")
