"""What the application feeds, and the tensor that the quantized graph takes for it.

| type_rt | fed | the graph gets |
|---|---|---|
| nv12 | uint8 `[N, H*3/2, W]` (or `[H*3/2, W]`, or the bytes) | int8 `[N, 3, H, W]`, chroma repeated, minus 128 |
| yuv444, rgb, bgr, gray | uint8 in `layout_rt` | int8 `[N, C, H, W]`, minus 128 |
| featuremap | the graph input's dtype and shape | the same |

A graph whose input is NHWC gets the same values as `[N, H, W, C]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hbtool.errors import DataError
from hbtool.numerics.color import CHANNELS, nv12_from_yuv444, rgb_to_yuv444, to_bytes, yuv444_from_nv12
from hbtool.runtime.resizer import resize_nv12, resize_plane

Array = NDArray[np.generic]

_SIGN_BIT = np.uint8(0x80)


@dataclass(frozen=True)
class InputFormat:
    """One input of an artifact.

    Attributes:
        name: the input's name.
        shape: shape of the graph's input, in `layout_graph` order.
        type_rt: rgb, bgr, yuv444, nv12, gray or featuremap.
        layout_rt: NCHW or NHWC, of what the application feeds (nv12 has its own).
        layout_graph: NCHW or NHWC, of the graph's input.
        space_and_range: regular or bt601_video, for nv12 and yuv444.
        dtype: dtype of a featuremap.
        separate: the images of the batch are fed one by one, each as an input of its own (`parts`).
        source: ddr, pyramid or resizer; with resizer a picture of another size is brought to the input's.
    """

    name: str
    shape: tuple[int, ...]
    type_rt: str = "featuremap"
    layout_rt: str = "NCHW"
    layout_graph: str = "NCHW"
    space_and_range: str = "regular"
    dtype: DTypeLike = np.float32
    separate: bool = False
    source: str = "ddr"

    @property
    def parts(self) -> tuple[InputFormat, ...]:
        """What the application feeds: this input, or with `separate` one of batch 1 per image (`x_0`, `x_1`, ...)."""
        if not self.separate:
            return (self,)
        single = (1, *self.shape[1:])
        return tuple(
            replace(self, name=part_name(self.name, index), shape=single, separate=False)
            for index in range(self.shape[0])
        )

    @property
    def is_image(self) -> bool:
        """Whether the input is anything but a featuremap."""
        return self.type_rt in CHANNELS

    @property
    def nchw(self) -> tuple[int, int, int, int]:
        """Batch, channels, height and width of an image input."""
        if self.layout_graph == "NHWC":
            batch, height, width, channels = self.shape
        else:
            batch, channels, height, width = self.shape
        return batch, channels, height, width

    @property
    def fed_shape(self) -> tuple[int, ...]:
        """Shape of what the application feeds."""
        if not self.is_image:
            return self.shape
        batch, channels, height, width = self.nchw
        if self.type_rt == "nv12":
            return batch, height * 3 // 2, width
        return (batch, height, width, channels) if self.layout_rt == "NHWC" else (batch, channels, height, width)

    @property
    def fed_dtype(self) -> np.dtype[np.generic]:
        """Dtype of what the application feeds."""
        return np.dtype(np.uint8) if self.is_image else np.dtype(self.dtype)

    @property
    def fed_bytes(self) -> int:
        """Bytes of what the application feeds."""
        return math.prod(self.fed_shape) * self.fed_dtype.itemsize


def part_name(name: str, index: int) -> str:
    """Name under which the application feeds one image of a separated batch."""
    return f"{name}_{index}"


def to_graph_tensor(fed: Array | bytes, form: InputFormat) -> Array:
    """The quantized graph's input for what the application feeds.

    Args:
        fed: an array of `form.fed_shape` (leading ones may be missing, flat is fine), or its bytes.
        form: the input.

    Returns:
        int8 of `form.shape` for images, the featuremap unchanged otherwise.

    Raises:
        DataError: wrong dtype, shape or number of bytes.
    """
    array = _fed_array(fed, form)
    if not form.is_image:
        return array
    if form.type_rt == "nv12":
        planes: Array = yuv444_from_nv12(array)  # type: ignore[arg-type]
    else:
        planes = np.moveaxis(array, -1, 1) if form.layout_rt == "NHWC" else array
    ordered = np.moveaxis(planes, 1, -1) if form.layout_graph == "NHWC" else planes
    # value - 128 in int8 is the same byte with its highest bit turned over.
    return (np.ascontiguousarray(ordered, np.uint8) ^ _SIGN_BIT).view(np.int8)


def from_rgb(rgb: NDArray[np.uint8], form: InputFormat) -> NDArray[np.uint8]:
    """What a camera of this input's type would deliver for an RGB picture.

    Args:
        rgb: `[H, W, 3]` of the input's height and width.
        form: an image input.

    Returns:
        uint8 of `form.fed_shape`, the picture repeated over the batch.

    Raises:
        DataError: the picture has another size, or the input takes no pictures.
    """
    if not form.is_image:
        raise DataError(
            "takes a featuremap, not a picture", where=f"input {form.name!r}", hint="Feed .npy or raw data."
        )
    batch, _, height, width = form.nchw
    if rgb.shape != (height, width, 3):
        raise DataError(f"a picture of shape {rgb.shape} for {height}x{width}", where=f"input {form.name!r}")
    planes = rgb.transpose(2, 0, 1)
    if form.type_rt == "nv12":
        whole: NDArray[np.uint8] = nv12_from_yuv444(rgb_to_yuv444(planes, form.space_and_range))
        return np.repeat(whole[None], batch, axis=0)
    if form.type_rt == "yuv444":
        planes = to_bytes(rgb_to_yuv444(planes, form.space_and_range))
    elif form.type_rt == "bgr":
        planes = planes[::-1]
    elif form.type_rt == "gray":
        planes = to_bytes(rgb_to_yuv444(planes))[:1]
    ordered = planes.transpose(1, 2, 0) if form.layout_rt == "NHWC" else planes
    return np.ascontiguousarray(np.repeat(ordered[None], batch, axis=0))


def _fed_array(fed: Array | bytes, form: InputFormat) -> Array:
    """The fed data as an array of the expected shape and dtype."""
    where = f"input {form.name!r}"
    if form.source == "resizer" and isinstance(fed, np.ndarray) and fed.dtype == np.uint8 and fed.ndim > 1:
        fed = _to_size(fed.view(np.uint8), form)
    if isinstance(fed, (bytes, bytearray, memoryview)):
        if len(fed) != form.fed_bytes:
            raise DataError(
                f"found {len(fed)} bytes, expected {form.fed_bytes} ({_described(form)})",
                where=where,
                hint="Feed exactly one frame in the format of the model's input_type_rt.",
            )
        return np.frombuffer(fed, form.fed_dtype).reshape(form.fed_shape)
    if fed.dtype != form.fed_dtype:
        hint = (
            "Feed the bytes of the picture; the model subtracts 128 itself." if form.is_image else "Convert it first."
        )
        raise DataError(f"found {fed.dtype.name}, expected {_described(form)}", where=where, hint=hint)
    shape = form.fed_shape
    flat = fed.ndim == 1 and fed.size == math.prod(shape)
    if not flat and _without_leading_ones(fed.shape) != _without_leading_ones(shape):
        raise DataError(
            f"found shape {list(fed.shape)}, expected {_described(form)}", where=where, hint=_shape_hint(fed, form)
        )
    return fed.reshape(shape)


def _to_size(fed: NDArray[np.uint8], form: InputFormat) -> Array:
    """A picture of any size at the size of the input."""
    _, _, height, width = form.nchw
    if 0 in fed.shape:
        return fed
    if form.type_rt == "nv12":
        same = fed.shape[-2:] == form.fed_shape[-2:]
        return fed if same else resize_nv12(fed, height, width)
    if form.type_rt != "gray" or fed.ndim < 3:
        return fed
    if form.layout_rt == "NHWC":
        return resize_plane(fed, height, width)
    return resize_plane(fed[..., None], height, width)[..., 0]


def _described(form: InputFormat) -> str:
    return f"{form.type_rt} as {form.fed_dtype.name} {list(form.fed_shape)}"


def _shape_hint(fed: Array, form: InputFormat) -> str:
    """The likely mistake behind a wrong shape."""
    if form.is_image and form.type_rt != "nv12":
        other = "NCHW" if form.layout_rt == "NHWC" else "NHWC"
        if sorted(fed.shape) == sorted(form.fed_shape):
            return f"It looks like {other}; this model was built with input_layout_rt {form.layout_rt}."
    return "Resize or convert the data to the model's input."


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    first = next((i for i, d in enumerate(shape) if d != 1), len(shape))
    return tuple(shape[first:])
