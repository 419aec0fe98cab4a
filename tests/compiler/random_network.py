"""Small random convolutional networks, for tests that need every kind of neighbourhood."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from hbtool.ir.load import prepare_model
from hbtool.numerics.ranges import Range
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges, values_to_observe
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.place import PlacementRequest, place
from hbtool.passes.simplify import simplify


class _Builder:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{len(self.nodes)}", **attributes))
        self.shapes[name] = shape
        return name

    def const(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, channels: int, kernel: int, stride: int, group: int) -> str:
        n, c, h, w = self.shapes[x]
        weight = self.rng.standard_normal((channels, c // group, kernel, kernel)).astype(np.float32) / kernel
        bias = self.rng.standard_normal(channels).astype(np.float32)
        pad = kernel // 2
        size = [(s + 2 * pad - kernel) // stride + 1 for s in (h, w)]
        return self.add(
            "Conv",
            [x, self.const(weight), self.const(bias)],
            (n, channels, *size),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            group=group,
        )

    def step(self, x: str, earlier: list[str]) -> str:
        n, c, h, w = self.shapes[x]
        kind = self.rng.choice(
            ["conv", "conv", "depthwise", "pool", "act", "add", "concat", "split", "up", "gate", "tail"]
        )
        same = [e for e in earlier if self.shapes[e] == self.shapes[x] and e != x]
        side = [e for e in earlier if self.shapes[e][2:] == (h, w) and e != x]
        if kind == "depthwise":
            return self.conv(x, c, 3, int(self.rng.integers(1, 3)) if h > 4 else 1, c)
        if kind == "pool":
            return self.add("MaxPool", [x], (n, c, h, w), kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
        if kind == "act":
            return self.add(str(self.rng.choice(["Sigmoid", "Relu", "Tanh"])), [x], (n, c, h, w))
        if kind == "add" and same:
            return self.add("Add", [x, str(self.rng.choice(same))], (n, c, h, w))
        if kind == "concat" and side:
            other = str(self.rng.choice(side))
            return self.add("Concat", [x, other], (n, c + self.shapes[other][1], h, w), axis=1)
        if kind == "split" and c >= 4:
            ends = [self.const(np.array(v, np.int64)) for v in ([c // 2], [c], [1])]
            return self.add("Slice", [x, *ends], (n, c - c // 2, h, w))
        if kind == "up" and h * w < 400:
            scales = self.const(np.array([1, 1, 2, 2], np.float32))
            return self.add(
                "Resize",
                [x, "", scales],
                (n, c, 2 * h, 2 * w),
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        if kind == "gate":
            pooled = self.add("GlobalAveragePool", [x], (n, c, 1, 1))
            return self.add("Mul", [x, self.add("Sigmoid", [pooled], (n, c, 1, 1))], (n, c, h, w))
        channels = int(self.rng.integers(2, 24))
        return self.conv(
            x, channels, int(self.rng.choice([1, 3, 5])), 2 if h > 12 and self.rng.random() < 0.3 else 1, 1
        )


def random_network(seed: int, steps: int = 10) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """(INTEGER graph, feeds) of a random network."""
    b = _Builder(seed)
    shape = (1, 3, int(b.rng.integers(9, 28)), int(b.rng.integers(5, 24)))
    b.shapes["x"] = shape
    names = [b.conv("x", 8, 3, 1, 1)]
    for _ in range(steps):
        names.append(b.step(names[-1], names))
    used = {i for node in b.nodes for i in node.input}
    outputs = [n for n in names if n not in used] or names[-1:]
    if b.rng.random() < 0.5 and names[len(names) // 2] not in outputs:
        outputs.append(names[len(names) // 2])
    proto = helper.make_model(
        helper.make_graph(
            b.nodes,
            f"random {seed}",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, b.shapes[o]) for o in outputs],
            b.constants,
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    model = simplify(prepare_model(proto, f"random {seed}"))
    place(model, "bayes-e", PlacementRequest(run_on_bpu=("*",)))
    fuse_clamps(model)
    attach_ranges(model, dict.fromkeys(values_to_observe(model), Range((-4.0,), (4.0,))), RangeOptions())
    integer = lower_to_integer(model, "bayes-e", 15)
    return integer, {"x": b.rng.standard_normal(shape).astype(np.float32)}
