"""Small models with a trouble each, and somebody who listens while they are built."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from hbtool.config import parse_config
from hbtool.config.schema import LoadedConfig

TABLE: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "table.yaml").read_text(encoding="utf-8"))


def says(row: str) -> str:
    """What the table promises that hbtool says."""
    text: str = next(r["says"] for r in TABLE if r["id"] == row)
    return text


class Heard:
    """Collects what a flow says."""

    def __init__(self) -> None:
        self.text: list[str] = []

    def info(self, message: str) -> None:
        self.text.append(message)

    def warn(self, message: str) -> None:
        self.text.append(f"warning: {message}")

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda done: None

    def __str__(self) -> str:
        return "\n".join(self.text)


def config(folder: Path, **changes: Any) -> LoadedConfig:
    """A configuration for `net.onnx` with images; `section__key` adds a key, None takes it out."""
    sections: dict[str, dict[str, Any]] = {
        "model_parameters": {"onnx_model": "net.onnx", "march": "bayes-e", "working_dir": "out"},
        "input_parameters": {
            "input_type_rt": "rgb", "input_layout_rt": "NCHW", "input_type_train": "rgb", "input_layout_train": "NCHW",
            "norm_type": "data_mean_and_scale", "mean_value": 127.5, "scale_value": 0.0078,
        },
        "calibration_parameters": {"cal_data_dir": "data", "cal_data_type": "uint8", "calibration_type": "max"},
        "compiler_parameters": {"optimize_level": "O2"},
    }  # fmt: skip
    for name, value in changes.items():
        section, _, key = name.partition("__")
        sections[f"{section}_parameters"][key] = value
    kept = {s: {k: v for k, v in keys.items() if v is not None} for s, keys in sections.items()}
    return parse_config(yaml.safe_dump(kept), file=str(folder / "config.yaml"), folder=folder)


def images(folder: Path, count: int = 3, shape: tuple[int, ...] = (1, 3, 16, 16), name: str = "data") -> Path:
    """Smooth random pictures as raw bytes."""
    rng = np.random.default_rng(3)
    place = folder / name
    place.mkdir()
    for index in range(count):
        ramp = np.cumsum(rng.integers(-6, 7, shape), axis=-1) + rng.integers(60, 200, (*shape[:-1], 1))
        np.clip(ramp, 0, 255).astype(np.uint8).tofile(place / f"{index}.bin")
    return place


Step = tuple[str, list[str], str, dict[str, Any]]


class Net:
    """Collects nodes and constants of a model with the input `x`."""

    def __init__(self, shape: tuple[int | str, ...] = (1, 3, 16, 16)) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shape = shape
        self.rng = np.random.default_rng(1)

    def const(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, op_type: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        label = name or f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [f"{label}_out"], name=label, **attributes))
        return f"{label}_out"

    def conv(self, x: str, channels_in: int, channels_out: int, name: str = "", scale: float = 1.0) -> str:
        w = self.rng.standard_normal((channels_out, channels_in, 3, 3)) / np.sqrt(9 * channels_in) * scale
        return self.add("Conv", x, self.const(w.astype(np.float32)), name=name, pads=[1, 1, 1, 1])

    def save(self, path: Path, *outputs: str, opset: int = 13) -> Path:
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, "net", [info("x", TensorProto.FLOAT, list(self.shape))],
            [info(o, TensorProto.FLOAT, None) for o in outputs], self.constants,
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.save(onnx.shape_inference.infer_shapes(made), path)
        return path


def plain(folder: Path) -> Path:
    """conv -> relu -> conv."""
    net = Net()
    return net.save(folder / "net.onnx", net.conv(net.add("Relu", net.conv("x", 3, 8, "first")), 8, 4, "last"))
