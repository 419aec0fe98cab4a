"""Colour conversions: formulas against a per-pixel definition, round trips, NV12 bytes, the preprocess step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from hbtool.errors import DataError
from hbtool.numerics import color

IMAGES = hnp.arrays(np.uint8, st.tuples(st.just(3), st.sampled_from([2, 4, 6]), st.sampled_from([2, 4, 8])))
RANGES = st.sampled_from(["regular", "bt601_video"])
COLOUR_PAIRS = [(t, r) for t, legal in color.LEGAL_PAIRS.items() for r in legal if t != "featuremap"]


@given(IMAGES, RANGES)
@settings(deadline=None)
def test_yuv_and_back_is_the_identity(rgb: np.ndarray, swing: str) -> None:
    back = color.yuv444_to_rgb(color.rgb_to_yuv444(rgb, swing), swing)
    assert np.abs(back - rgb).max() < 1e-3


@given(IMAGES)
@settings(deadline=None)
def test_full_swing_agrees_with_pillow(rgb: np.ndarray) -> None:
    pillow = np.asarray(Image.fromarray(rgb.transpose(1, 2, 0)).convert("YCbCr")).transpose(2, 0, 1)
    assert np.abs(color.rgb_to_yuv444(rgb) - pillow).max() <= 1.01  # Pillow rounds with a table of its own


def test_video_swing_keeps_to_its_limits() -> None:
    corners = np.array(np.meshgrid([0, 255], [0, 255], [0, 255])).reshape(3, 1, 8)
    yuv = color.rgb_to_yuv444(corners, "bt601_video")
    np.testing.assert_allclose(yuv.min(axis=(1, 2)), [16, 16, 16], atol=1e-3)
    np.testing.assert_allclose(yuv.max(axis=(1, 2)), [235, 240, 240], atol=1e-3)


@given(IMAGES)
@settings(deadline=None)
def test_nv12_keeps_luma_and_block_means(yuv: np.ndarray) -> None:
    nv12 = color.nv12_from_yuv444(yuv)
    height, width = yuv.shape[1:]
    assert nv12.shape == (height * 3 // 2, width)
    assert nv12.dtype == np.uint8
    np.testing.assert_array_equal(nv12[:height], yuv[0])
    for row in range(height // 2):
        for column in range(width // 2):
            for channel in (1, 2):
                block = yuv[channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                stored = nv12[height + row, 2 * column + channel - 1]
                assert stored == np.rint(block.astype(np.float64).mean())


@given(IMAGES)
@settings(deadline=None)
def test_nv12_read_and_written_again_is_the_same_bytes(yuv: np.ndarray) -> None:
    nv12 = color.nv12_from_yuv444(yuv)
    np.testing.assert_array_equal(color.nv12_from_yuv444(color.yuv444_from_nv12(nv12)), nv12)


def test_conversions_take_batches() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 6), dtype=np.uint8)
    whole = color.yuv444_from_nv12(color.nv12_from_yuv444(batch))
    for index in range(2):
        np.testing.assert_array_equal(whole[index], color.yuv444_from_nv12(color.nv12_from_yuv444(batch[index])))


@pytest.mark.parametrize(("train", "runtime"), COLOUR_PAIRS)
@pytest.mark.parametrize("swing", ["regular", "bt601_video"])
def test_preprocess_undoes_the_runtime_format(train: str, runtime: str, swing: str) -> None:
    """On an image of constant colour 4:2:0 loses nothing, so only the rounding of YUV to bytes is left."""
    rng = np.random.default_rng(1)
    channels = color.CHANNELS[train]
    flat = np.broadcast_to(rng.integers(30, 220, (channels, 1, 1)), (channels, 4, 4)).astype(np.float32)
    mean, scale, std = rng.uniform(0, 200, (3, channels)) + 1
    affine = color.preprocess_affine(runtime, train, swing, list(mean), list(scale), list(std))
    signed = color.to_runtime_128(flat, train, runtime, swing)
    got = np.einsum("oc,chw->ohw", affine.matrix(), signed) + affine.bias[:, None, None]
    expected = (flat - mean[:, None, None]) * (scale / std)[:, None, None]
    assert (np.abs(got - expected) <= 2.5 * (scale / std)[:, None, None]).all()
    assert affine.colour == (affine.weight.ndim == 2)


@pytest.mark.parametrize("train", ["rgb", "bgr"])
def test_full_swing_bias_is_the_documented_one(train: str) -> None:
    mean, scale = [123.675, 116.28, 103.53], [0.017, 0.018, 0.019]
    affine = color.preprocess_affine("nv12", train, "regular", mean, scale)
    np.testing.assert_allclose(affine.bias, np.multiply(scale, np.subtract(128, mean)), rtol=1e-5)
    first = {"rgb": [1, 0, 1.402], "bgr": [1, 1.772, 0]}[train]
    np.testing.assert_allclose(affine.weight[0], np.multiply(0.017, first), rtol=1e-6)


def test_equal_types_stay_per_channel() -> None:
    affine = color.preprocess_affine("rgb", "rgb", mean=[127.5], scale=[1 / 127.5])
    assert not affine.colour
    np.testing.assert_allclose(affine.weight, [1 / 127.5] * 3)
    np.testing.assert_allclose(affine.bias, [0.5 / 127.5] * 3, rtol=1e-5)


def test_featuremaps_know_no_128() -> None:
    affine = color.preprocess_affine("featuremap", "featuremap", mean=[1, 2], scale=[3, 4], channels=2)
    np.testing.assert_allclose(affine.bias, [-3, -8])


def test_subsampled_chroma_leaves_the_rgb_cube() -> None:
    """The effect that calibration must see: colours next to each other come back outside 0..255 (hb_mapper.md 9.3)."""
    image = np.zeros((3, 2, 2), np.float32)
    image[0, 0, 0] = 255  # one red pixel among black ones
    signed = color.to_runtime_128(image, "rgb", "nv12", "regular")
    affine = color.preprocess_affine("nv12", "rgb")
    rgb = np.einsum("oc,chw->ohw", affine.matrix(), signed) + affine.bias[:, None, None]
    assert rgb.min() < -1
    assert np.abs(signed).max() <= 128


@pytest.mark.parametrize("shape", [(3, 3, 4), (3, 4, 5)])
def test_odd_sizes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="4:2:0"):
        color.nv12_from_yuv444(np.zeros(shape))


def test_wrong_number_of_rows_is_refused() -> None:
    with pytest.raises(DataError, match="NV12"):
        color.yuv444_from_nv12(np.zeros((4, 4), np.uint8))


def test_illegal_pairs_name_the_legal_ones() -> None:
    with pytest.raises(DataError, match="input_type_rt for input_type_train gray: gray"):
        color.preprocess_affine("nv12", "gray")


def test_lists_of_wrong_length_are_refused() -> None:
    with pytest.raises(DataError, match="mean_value has 2 values for 3 channels"):
        color.preprocess_affine("rgb", "rgb", mean=[1, 2])
