"""Colour: BT.601 between RGB and YUV, 4:2:0 chroma as NV12 stores it, and the first affine step of a model.

Arrays are channel-first, `(..., 3, H, W)`, values 0..255. YUV keeps 0..255 with chroma centred at 128, either
full swing (`regular`: Y, U, V all 0..255) or studio swing (`bt601_video`: Y 16..235, U and V 16..240).

The model's first integer tensor is the runtime format minus 128 ("×_128"). `preprocess_affine` gives the 1x1
convolution that leads from there to what the model was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hbtool.errors import DataError

Pixels = NDArray[np.number]
FloatArray = NDArray[np.floating]

OFFSET = 128
"""What image bytes are lowered by to become signed."""

# BT.601 luma weights; the chroma rows follow from them: U = (B - Y) / 1.772, V = (R - Y) / 1.402.
_LUMA = np.array([0.299, 0.587, 0.114])
_RGB_FROM_YUV = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]])
_YUV_FROM_RGB = np.stack([_LUMA, (np.array([0, 0, 1]) - _LUMA) / 1.772, (np.array([1, 0, 0]) - _LUMA) / 1.402])
_VIDEO_BLACK = 16.0
_VIDEO_GAIN = np.array([219.0, 224.0, 224.0]) / 255.0

CHANNELS = {"rgb": 3, "bgr": 3, "yuv444": 3, "nv12": 3, "gray": 1}
"""Channels of each image type as the model sees it (NV12 arrives as 4:4:4)."""

LEGAL_PAIRS = {
    "rgb": ("nv12", "yuv444", "rgb", "bgr"),
    "bgr": ("nv12", "yuv444", "rgb", "bgr"),
    "yuv444": ("nv12", "yuv444"),
    "gray": ("gray",),
    "featuremap": ("featuremap",),
}
"""Training type -> the runtime types it can be fed from."""


def rgb_to_yuv444(rgb: Pixels, space_and_range: str = "regular") -> NDArray[np.float32]:
    """RGB to YUV 4:4:4, neither rounded nor clipped (BT.601).

    Args:
        rgb: `(..., 3, H, W)`, 0..255.
        space_and_range: `regular` (full swing) or `bt601_video` (studio swing).
    """
    matrix, offset = _encoding(space_and_range)
    return _apply(matrix, rgb, offset)


def yuv444_to_rgb(yuv: Pixels, space_and_range: str = "regular") -> NDArray[np.float32]:
    """YUV 4:4:4 to RGB, not clipped: chroma that was averaged can leave 0..255. Inverse of `rgb_to_yuv444`."""
    matrix, offset = _decoding(space_and_range)
    return _apply(matrix, yuv, -matrix @ offset)


def swap_red_blue(image: Pixels) -> Pixels:
    """RGB to BGR and back."""
    return image[..., ::-1, :, :]


def subsample_chroma(yuv: Pixels) -> tuple[Pixels, Pixels]:
    """4:4:4 to 4:2:0: chroma is the mean of each 2x2 block.

    Returns:
        luma `(..., H, W)` and chroma `(..., 2, H/2, W/2)`.

    Raises:
        DataError: height or width is odd.
    """
    height, width = yuv.shape[-2:]
    check_even(height, width)
    blocks = yuv[..., 1:, :, :].reshape(*yuv.shape[:-3], 2, height // 2, 2, width // 2, 2)
    return yuv[..., 0, :, :], blocks.mean(axis=(-3, -1), dtype=np.float32)


def upsample_chroma(luma: Pixels, chroma: Pixels) -> Pixels:
    """4:2:0 to 4:4:4: each chroma sample covers its 2x2 block, as the hardware's reader repeats it."""
    wide = chroma.repeat(2, axis=-2).repeat(2, axis=-1)
    return np.concatenate([luma[..., None, :, :], wide], axis=-3)


def through_420(yuv: Pixels) -> Pixels:
    """What is left of a 4:4:4 image after NV12 has carried it."""
    return upsample_chroma(*subsample_chroma(yuv))


def to_bytes(values: Pixels) -> NDArray[np.uint8]:
    """Round half to even and saturate to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def nv12_from_yuv444(yuv: Pixels) -> NDArray[np.uint8]:
    """NV12 bytes of a 4:4:4 image.

    Args:
        yuv: `(..., 3, H, W)`, 0..255.

    Returns:
        `(..., H*3/2, W)`: H rows of luma, then H/2 rows of interleaved U, V.
    """
    luma, chroma = subsample_chroma(yuv)
    height, width = luma.shape[-2:]
    interleaved = np.moveaxis(chroma, -3, -1).reshape(*luma.shape[:-2], height // 2, width)
    return np.concatenate([to_bytes(luma), to_bytes(interleaved)], axis=-2)


def yuv444_from_nv12(nv12: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """4:4:4 image `(..., 3, H, W)` of NV12 bytes `(..., H*3/2, W)`.

    Raises:
        DataError: the rows or columns cannot be those of an NV12 image.
    """
    rows, width = nv12.shape[-2:]
    if rows % 3:
        raise DataError(f"{rows} rows cannot be an NV12 image", hint="NV12 holds height*3/2 rows; the height is even.")
    height = rows // 3 * 2
    check_even(height, width)
    chroma = nv12[..., height:, :].reshape(*nv12.shape[:-2], height // 2, width // 2, 2)
    result = upsample_chroma(nv12[..., :height, :], np.moveaxis(chroma, -1, -3))
    return result  # type: ignore[return-value]


def check_even(height: int, width: int) -> None:
    """Refuse sizes that 4:2:0 cannot hold.

    Raises:
        DataError: height or width is odd.
    """
    if height % 2 or width % 2:
        raise DataError(
            f"an image of {height}x{width} (HxW) cannot be stored with 4:2:0 chroma",
            hint="nv12 needs even height and width: resize, or choose another input_type_rt.",
        )


def to_runtime_128(image: Pixels, type_train: str, type_rt: str, space_and_range: str) -> NDArray[np.float32]:
    """An image as the model is trained on it, in the runtime's signed intermediate type.

    YUV comes out on the grid of bytes, because that is all a camera delivers; NV12 goes through 4:2:0 chroma. Equal
    types only lose 128. (hb_mapper.md 2.2, 2.5.)

    Args:
        image: `(..., C, H, W)`, 0..255, in the order of `type_train`.
        type_train: `rgb`, `bgr`, `yuv444` or `gray`.
        type_rt: a runtime type that `LEGAL_PAIRS` allows for it.
        space_and_range: `regular` or `bt601_video`.

    Returns:
        float32 of the same shape, -128..127.
    """
    _check_pair(type_train, type_rt)
    values: Pixels = np.asarray(image, np.float32)
    if type_rt in ("rgb", "bgr"):
        values = values if type_rt == type_train else swap_red_blue(values)
    elif type_rt != "gray":
        if type_train != "yuv444":
            values = rgb_to_yuv444(values if type_train == "rgb" else swap_red_blue(values), space_and_range)
        if type_rt == "nv12":
            values = through_420(values)
        values = to_bytes(values).astype(np.float32)
    return np.ascontiguousarray(values - np.float32(OFFSET), np.float32)


@dataclass(frozen=True)
class Affine:
    """The first step of a model: y = weight · x + bias over the channels.

    Attributes:
        weight: `[C, C]` where channels mix (`colour`), else `[C]`.
        bias: `[C]`.
        colour: whether channels mix.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    colour: bool

    def matrix(self) -> NDArray[np.float32]:
        """The weight as `[C, C]`, for a 1x1 convolution."""
        return self.weight if self.colour else np.diag(self.weight)


def preprocess_affine(
    type_rt: str,
    type_train: str,
    space_and_range: str = "regular",
    mean: Sequence[float] | None = None,
    scale: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: int | None = None,
) -> Affine:
    """The step from the runtime's ×_128 type to the normalized training type.

    With x the intermediate value, c = M·(x + offset) the training colour: y = (c - mean) · scale / std, hence weight
    diag(scale/std)·M and bias scale/std · (M·offset - mean). For full swing M·offset is 128 (hb_mapper.md 2.3).

    Args:
        type_rt: runtime type.
        type_train: training type.
        space_and_range: `regular` or `bt601_video`.
        mean: one value or one per channel, in 0..255 units of the training type; None for 0.
        scale: factor, one value or one per channel; None for 1.
        std: divisor, one value or one per channel; None for 1.
        channels: channels of a featuremap; image types know theirs.

    Raises:
        DataError: illegal pair of types, or a list whose length is neither 1 nor the number of channels.
    """
    _check_pair(type_train, type_rt)
    count = CHANNELS.get(type_train, channels or 1)
    gain = _per_channel("scale_value", scale, 1.0, count) / _per_channel("std_value", std, 1.0, count)
    shift = _per_channel("mean_value", mean, 0.0, count)
    if type_train == "featuremap":
        return Affine(gain.astype(np.float32), (-gain * shift).astype(np.float32), False)
    if type_train in ("rgb", "bgr") and type_rt in ("nv12", "yuv444"):
        matrix, offset = _decoding(space_and_range)
        centre = matrix @ (OFFSET - offset)
        if type_train == "bgr":
            matrix, centre = matrix[::-1], centre[::-1]
    else:
        matrix, centre = np.eye(count), np.full(count, float(OFFSET))
        if type_train in ("rgb", "bgr") and type_rt != type_train:
            matrix = matrix[::-1]
    colour = not np.array_equal(matrix, np.eye(count))
    weight = gain[:, None] * matrix if colour else gain
    return Affine(weight.astype(np.float32), (gain * (centre - shift)).astype(np.float32), colour)


def _encoding(space_and_range: str) -> tuple[FloatArray, FloatArray]:
    """Matrix and offset of yuv = matrix · rgb + offset."""
    if space_and_range == "bt601_video":
        return _VIDEO_GAIN[:, None] * _YUV_FROM_RGB, np.array([_VIDEO_BLACK, 128.0, 128.0])
    return _YUV_FROM_RGB, np.array([0.0, 128.0, 128.0])


def _decoding(space_and_range: str) -> tuple[FloatArray, FloatArray]:
    """Matrix and offset of rgb = matrix · (yuv - offset)."""
    if space_and_range == "bt601_video":
        return _RGB_FROM_YUV / _VIDEO_GAIN, np.array([_VIDEO_BLACK, 128.0, 128.0])
    return _RGB_FROM_YUV, np.array([0.0, 128.0, 128.0])


def _apply(matrix: FloatArray, image: Pixels, offset: FloatArray) -> NDArray[np.float32]:
    mixed = np.einsum("oc,...chw->...ohw", matrix.astype(np.float32), np.asarray(image, np.float32))
    return np.asarray(mixed + offset.astype(np.float32)[:, None, None], np.float32)


def _per_channel(key: str, values: Sequence[float] | None, default: float, count: int) -> NDArray[np.float64]:
    array = np.atleast_1d(np.asarray(default if values is None else values, np.float64))
    if array.size not in (1, count):
        raise DataError(
            f"{key} has {array.size} values for {count} channels", hint="Give one value or one per channel."
        )
    return np.broadcast_to(array, (count,)).copy()


def _check_pair(type_train: str, type_rt: str) -> None:
    if type_rt not in LEGAL_PAIRS.get(type_train, ()):
        legal = ", ".join(LEGAL_PAIRS.get(type_train, ())) or f"unknown training type; known: {', '.join(LEGAL_PAIRS)}"
        raise DataError(
            f"a model trained on {type_train} cannot be fed {type_rt}",
            hint=f"input_type_rt for input_type_train {type_train}: {legal}.",
        )
