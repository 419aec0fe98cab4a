"""What is fed at run time is what calibration saw, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

from hbtool.calibration.dataset import to_graph_input
from hbtool.calibration.input_spec import InputSpec
from hbtool.errors import DataError
from hbtool.runtime.input_format import InputFormat, from_rgb, to_graph_tensor


def picture(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (4, 6, channels), dtype=np.uint8)


@pytest.mark.parametrize("runtime", ["nv12", "yuv444", "rgb", "bgr"])
@pytest.mark.parametrize("layout_rt", ["NCHW", "NHWC"])
@pytest.mark.parametrize("layout_graph", ["NCHW", "NHWC"])
@pytest.mark.parametrize("swing", ["regular", "bt601_video"])
def test_feeding_the_camera_format_equals_calibration(
    runtime: str, layout_rt: str, layout_graph: str, swing: str
) -> None:
    shape = (1, 3, 4, 6) if layout_graph == "NCHW" else (1, 4, 6, 3)
    form = InputFormat("x", shape, runtime, layout_rt, layout_graph, swing)
    fed = from_rgb(picture(), form)
    assert (fed.shape, fed.dtype) == (form.fed_shape, np.uint8)
    got = to_graph_tensor(fed, form)
    spec = InputSpec("x", shape, np.float32, runtime, "rgb", layout_rt, layout_graph, swing)
    sample = picture()[None].transpose(0, 3, 1, 2) if layout_graph == "NCHW" else picture()[None]
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got.astype(np.float32), to_graph_input(sample, spec))


def test_bytes_flat_and_shaped_arrays_are_the_same() -> None:
    form = InputFormat("x", (1, 3, 4, 6), "nv12")
    fed = from_rgb(picture(), form)
    expected = to_graph_tensor(fed, form)
    for given in (fed.tobytes(), fed.reshape(-1), fed[0], fed.reshape(6, 6)):
        np.testing.assert_array_equal(to_graph_tensor(given, form), expected)
    assert form.fed_bytes == len(fed.tobytes()) == 36


def test_every_byte_loses_128() -> None:
    form = InputFormat("g", (1, 1, 16, 16), "gray")
    fed = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    np.testing.assert_array_equal(to_graph_tensor(fed, form).ravel(), np.arange(-128, 128))


def test_batches_keep_their_images_apart() -> None:
    form = InputFormat("x", (2, 3, 4, 6), "nv12")
    fed = np.random.default_rng(0).integers(0, 256, (2, 6, 6), dtype=np.uint8)
    single = InputFormat("x", (1, 3, 4, 6), "nv12")
    both = np.concatenate([to_graph_tensor(one, single) for one in fed])
    np.testing.assert_array_equal(to_graph_tensor(fed, form), both)


def test_gray_pictures_are_luma() -> None:
    form = InputFormat("g", (1, 1, 4, 6), "gray", "NHWC")
    white = np.full((4, 6, 3), 200, np.uint8)
    np.testing.assert_array_equal(from_rgb(white, form), np.full((1, 4, 6, 1), 200))


def test_featuremaps_pass_unchanged() -> None:
    values = np.random.default_rng(0).standard_normal((1, 5)).astype(np.float32)
    form = InputFormat("f", (1, 5))
    np.testing.assert_array_equal(to_graph_tensor(values, form), values)
    np.testing.assert_array_equal(to_graph_tensor(values.tobytes(), form), values)


@pytest.mark.parametrize(
    ("fed", "said", "hint"),
    [
        (np.zeros((1, 6, 6), np.float32), "found float32", "the model subtracts 128 itself"),
        (np.zeros((1, 3, 4, 6), np.uint8), r"found shape \[1, 3, 4, 6\], expected nv12", "Resize or convert"),
        (bytes(35), "found 35 bytes, expected 36", "one frame"),
    ],
)
def test_what_does_not_fit_is_refused(fed: np.ndarray | bytes, said: str, hint: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        to_graph_tensor(fed, InputFormat("x", (1, 3, 4, 6), "nv12"))
    assert caught.value.where == "input 'x'"
    assert hint in str(caught.value.hint)


def test_a_swapped_layout_is_recognized() -> None:
    with pytest.raises(DataError) as caught:
        to_graph_tensor(np.zeros((1, 4, 6, 3), np.uint8), InputFormat("x", (1, 3, 4, 6), "rgb"))
    assert "looks like NHWC" in str(caught.value.hint)


def test_pictures_of_another_size_or_for_featuremaps_are_refused() -> None:
    with pytest.raises(DataError, match="for 4x8"):
        from_rgb(picture(), InputFormat("x", (1, 3, 4, 8), "rgb"))
    with pytest.raises(DataError, match="not a picture"):
        from_rgb(picture(), InputFormat("f", (1, 5)))
