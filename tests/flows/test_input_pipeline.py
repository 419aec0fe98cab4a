"""What the application feeds, in every format, gives what the float model says of the training image.

The conversions here are written out again from the public formulas (BT.601, 4:2:0, NV12), not taken from hbtool.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hbtool.config import parse_config
from hbtool.errors import DataError
from hbtool.flows.makertbin import BuildResult, makertbin
from hbtool.flows.verify import verify
from hbtool.runtime import Session

H, W = 8, 12
MEAN = np.array([110.0, 120.0, 100.0])
SCALE = np.array([0.02, 0.015, 0.0175])

CONFIG = """
model_parameters: {{onnx_model: net.onnx, march: {march}, working_dir: out}}
input_parameters:
  input_type_train: {train}
  input_type_rt: {rt}
  input_layout_train: {layout_train}
  input_layout_rt: {layout_rt}
  input_space_and_range: {swing}
  norm_type: data_mean_and_scale
  mean_value: '{mean}'
  scale_value: '{scale}'
calibration_parameters: {{calibration_type: max, cal_data_dir: cal_f32}}
"""


def picture(seed: int) -> np.ndarray:
    """A smooth RGB picture [3, H, W], 20..235: its colours survive 4:2:0 chroma."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:H, 0:W] / max(H, W)
    planes = [128 + 100 * np.sin(rng.uniform(0, 6) + rng.uniform(0, 1) * (x + y)) for _ in range(3)]
    return np.clip(np.stack(planes), 20, 235)


def yuv_of(rgb: np.ndarray, swing: str) -> np.ndarray:
    r, g, b = rgb
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    u, v = (b - luma) / 1.772, (r - luma) / 1.402
    if swing == "bt601_video":
        return np.stack([16 + luma * 219 / 255, 128 + u * 224 / 255, 128 + v * 224 / 255])
    return np.stack([luma, 128 + u, 128 + v])


def byte(array: np.ndarray) -> np.ndarray:
    return np.clip(np.round(array), 0, 255).astype(np.uint8)


def fed(rgb: np.ndarray, rt: str, layout: str, swing: str) -> np.ndarray:
    """What a camera delivers for a picture."""
    if rt == "nv12":
        y, u, v = yuv_of(rgb, swing)
        rows = [byte(y)]
        quarter = [p.reshape(H // 2, 2, W // 2, 2).mean(axis=(1, 3)) for p in (u, v)]
        rows.append(byte(np.stack(quarter, -1).reshape(H // 2, W)))
        return np.concatenate(rows)[None]
    planes = {"rgb": rgb, "bgr": rgb[::-1], "yuv444": yuv_of(rgb, swing), "gray": yuv_of(rgb, "regular")[:1]}[rt]
    return byte(planes.transpose(1, 2, 0) if layout == "NHWC" else planes)[None]


def trained_on(rgb: np.ndarray, train: str, layout: str) -> np.ndarray:
    """The picture as training code has it: 0..255 float32, before mean and scale."""
    planes = {"rgb": rgb, "bgr": rgb[::-1], "yuv444": yuv_of(rgb, "regular"), "gray": yuv_of(rgb, "regular")[:1]}[train]
    return (planes.transpose(1, 2, 0) if layout == "NHWC" else planes)[None].astype(np.float32)


def save_net(path: Path, channels: int, layout: str) -> None:
    rng = np.random.default_rng(1)
    weights = numpy_helper.from_array(rng.standard_normal((6, channels, 1, 1)).astype(np.float32), "w")
    shape = [1, channels, H, W] if layout == "NCHW" else [1, H, W, channels]
    nodes = [helper.make_node("Conv", ["x" if layout == "NCHW" else "t", "w"], ["y"], "conv")]
    if layout == "NHWC":
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[0, 3, 1, 2]))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", TensorProto.FLOAT, shape)],
        [info("y", TensorProto.FLOAT, [1, 6, H, W])],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def build(folder: Path, train: str, rt: str, layout_train: str, layout_rt: str, swing: str, march: str) -> BuildResult:
    channels = 1 if train == "gray" else 3
    save_net(folder / "net.onnx", channels, layout_train)
    (folder / "cal_f32").mkdir()
    for seed in range(4):
        trained_on(picture(seed), train, layout_train).tofile(folder / "cal_f32" / f"{seed}.bin")
    text = CONFIG.format(
        train=train,
        rt=rt,
        layout_train=layout_train,
        layout_rt=layout_rt,
        swing=swing,
        march=march,
        mean=" ".join(map(str, MEAN[:channels])),
        scale=" ".join(map(str, SCALE[:channels])),
    )
    return makertbin(parse_config(text, folder=folder))


CASES = [
    ("rgb", "nv12", "NCHW", "NHWC", "regular", "bayes-e"),
    ("rgb", "nv12", "NHWC", "NHWC", "bt601_video", "bayes-e"),
    ("bgr", "nv12", "NCHW", "NCHW", "bt601_video", "bernoulli2"),
    ("bgr", "nv12", "NCHW", "NHWC", "regular", "nash-e"),
    ("yuv444", "nv12", "NCHW", "NHWC", "regular", "bayes"),
    ("rgb", "yuv444", "NCHW", "NHWC", "regular", "bernoulli2"),
    ("bgr", "yuv444", "NHWC", "NCHW", "regular", "bayes-e"),
    ("yuv444", "yuv444", "NCHW", "NCHW", "regular", "bayes-e"),
    ("rgb", "rgb", "NCHW", "NHWC", "regular", "bayes-e"),
    ("rgb", "bgr", "NHWC", "NCHW", "regular", "bayes-e"),
    ("bgr", "rgb", "NCHW", "NCHW", "regular", "bernoulli2"),
    ("bgr", "bgr", "NHWC", "NHWC", "regular", "bayes"),
    ("gray", "gray", "NCHW", "NHWC", "regular", "bayes-e"),
    ("gray", "gray", "NHWC", "NHWC", "regular", "nash-e"),
]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_format_gives_what_the_float_model_says(case: tuple[str, ...], tmp_path: Path) -> None:
    train, rt, layout_train, layout_rt, swing, _ = case
    result = build(tmp_path, *case)
    image = picture(9)
    sample = trained_on(image, train, layout_train)
    channels = sample.shape[1 if layout_train == "NCHW" else 3]
    per_channel = (1, -1, 1, 1) if layout_train == "NCHW" else (1, 1, 1, -1)
    mean, scale = (a[:channels].reshape(per_channel) for a in (MEAN, SCALE))
    (wanted,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(
        None, {"x": ((sample - mean) * scale).astype(np.float32)}
    )
    (got,) = Session(result.artifact_path).run(None, {"x": fed(image, rt, layout_rt, swing)})
    # The picture is smooth, so 4:2:0 costs little; a wrong matrix, swing, order or layout is off by far more.
    assert np.abs(got - wanted).mean() < 0.03 * np.abs(wanted).max()
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.998
    assert verify(result.artifact_path).passed


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[5], CASES[8], CASES[12]], ids="-".join)
def test_the_float_stage_takes_the_runtime_format_minus_128(case: tuple[str, ...], tmp_path: Path) -> None:
    """original_float starts at the signed intermediate type, in the layout of the training."""
    train, rt, layout_train, _, swing, _ = case
    result = build(tmp_path, *case)
    image = picture(5)
    if rt == "nv12":
        bytes_ = fed(image, "yuv444", "NCHW", swing).astype(np.float32)
        bytes_[:, 1:] = np.round(
            bytes_[:, 1:].reshape(1, 2, H // 2, 2, W // 2, 2).mean(axis=(3, 5), keepdims=True).repeat(2, 3).repeat(2, 5)
        ).reshape(1, 2, H, W)
    else:
        bytes_ = fed(image, rt, "NCHW", swing).astype(np.float32)
    signed = bytes_ - 128
    stage = onnxruntime.InferenceSession(result.files["original_float_model"])
    (entry,) = stage.get_inputs()
    assert entry.type == "tensor(float)"
    feed = signed if layout_train == "NCHW" else signed.transpose(0, 2, 3, 1)
    (got,) = stage.run(None, {"x": np.ascontiguousarray(feed)})
    sample = trained_on(image, train, layout_train)
    channels = sample.shape[1 if layout_train == "NCHW" else 3]
    per_channel = (1, -1, 1, 1) if layout_train == "NCHW" else (1, 1, 1, -1)
    mean, scale = (a[:channels].reshape(per_channel) for a in (MEAN, SCALE))
    (wanted,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(
        None, {"x": ((sample - mean) * scale).astype(np.float32)}
    )
    assert np.abs(got - wanted).mean() < 0.02 * np.abs(wanted).max()


def test_colours_that_4_2_0_mixes_leave_the_cube_and_are_not_clipped(tmp_path: Path) -> None:
    """A red column beside a blue one: their mean chroma with either luma is no colour of 0..255; the range keeps it."""
    train, rt = "rgb", "nv12"
    save_net(tmp_path / "net.onnx", 3, "NCHW")
    (tmp_path / "cal_f32").mkdir()
    stripes = np.zeros((1, 3, H, W), np.float32)
    stripes[:, 0, :, 0::2] = 255.0
    stripes[:, 2, :, 1::2] = 255.0
    stripes.tofile(tmp_path / "cal_f32" / "0.bin")
    text = CONFIG.format(
        train=train, rt=rt, layout_train="NCHW", layout_rt="NHWC", swing="regular", march="bayes-e",
        mean="0", scale="0.00392156862745098",
    )  # fmt: skip
    result = makertbin(parse_config(text, folder=tmp_path))
    luma = {"red": 0.299 * 255, "blue": 0.114 * 255}
    v = (np.mean([255 - luma["red"], 0 - luma["blue"]])) / 1.402
    u = (np.mean([0 - luma["red"], 255 - luma["blue"]])) / 1.772
    values = [(y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u) for y in luma.values()]
    threshold = next(row.threshold for row in result.nodes if row.node == "conv")
    assert threshold == pytest.approx(np.abs(values).max() / 255, rel=0.01)


RESIZER = """
model_parameters: {{onnx_model: net.onnx, march: bayes-e, working_dir: out}}
input_parameters:
  {{input_type_train: {train}, input_type_rt: {rt}, input_layout_train: NCHW, input_layout_rt: {layout}}}
calibration_parameters: {{calibration_type: skip}}
compiler_parameters: {{input_source: {{x: resizer}}}}
"""


@pytest.mark.parametrize(
    ("train", "rt", "layout"), [("rgb", "nv12", "NHWC"), ("gray", "gray", "NCHW"), ("gray", "gray", "NHWC")]
)
def test_resizer_takes_a_picture_of_another_size(train: str, rt: str, layout: str, tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx", 1 if train == "gray" else 3, "NCHW")
    result = makertbin(parse_config(RESIZER.format(train=train, rt=rt, layout=layout), folder=tmp_path))
    session = Session(result.artifact_path)
    small = fed(picture(3), rt, layout, "regular")
    twice = picture(3).repeat(2, axis=1).repeat(2, axis=2)
    large = fed_of(twice, rt, layout)
    assert large.size == 4 * small.size
    (a,), (b,) = session.run(None, {"x": small}), session.run(None, {"x": large})
    np.testing.assert_allclose(a, b, atol=0.02 * np.abs(a).max())
    assert verify(result.artifact_path).passed
    with pytest.raises(DataError, match="found float32"):
        session.run(None, {"x": large.astype(np.float32)})
    if rt == "nv12":
        with pytest.raises(DataError, match="25x24 is no NV12 picture"):
            session.run(None, {"x": np.zeros((1, 25, 24), np.uint8)})


def test_only_the_resizer_takes_another_size(tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx", 3, "NCHW")
    text = RESIZER.format(train="rgb", rt="nv12", layout="NHWC").replace("x: resizer", "x: pyramid")
    session = Session(makertbin(parse_config(text, folder=tmp_path)).artifact_path)
    with pytest.raises(DataError, match="found shape"):
        session.run(None, {"x": np.zeros((1, 24, 24), np.uint8)})


def fed_of(rgb: np.ndarray, rt: str, layout: str) -> np.ndarray:
    """`fed` of a picture of any size."""
    y, u, v = yuv_of(rgb, "regular")
    height, width = y.shape
    if rt == "gray":
        return byte(y)[None, :, :, None] if layout == "NHWC" else byte(y)[None, None]
    quarter = [p.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for p in (u, v)]
    return np.concatenate([byte(y), byte(np.stack(quarter, -1).reshape(height // 2, width))])[None]
