"""input_source resizer: the picture comes in any size, and is brought to the model's before the BPU reads it.

Bilinear with half-pixel centres and clamped borders, every plane by itself, rounded half to even. The resizer
of the boards is not described publicly; this one is defined here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hbtool.errors import DataError

Bytes = NDArray[np.uint8]


def resize_nv12(picture: Bytes, height: int, width: int) -> Bytes:
    """NV12 `[..., h*3/2, w]` of any even size as NV12 `[..., height*3/2, width]`.

    Raises:
        DataError: the rows or columns cannot be those of an NV12 picture.
    """
    rows, columns = picture.shape[-2:]
    if rows % 3 or rows == 0 or columns % 2 or rows // 3 * 2 % 2:
        raise DataError(
            f"an array of {rows}x{columns} is no NV12 picture", hint="It has height*3/2 rows; both sizes are even."
        )
    luma, chroma = picture[..., : rows // 3 * 2, :], picture[..., rows // 3 * 2 :, :]
    pairs = chroma.reshape(*chroma.shape[:-1], columns // 2, 2)
    small_luma = resize_plane(luma[..., None], height, width)[..., 0]
    small_pairs = resize_plane(pairs, height // 2, width // 2)
    return np.concatenate([small_luma, small_pairs.reshape(*small_pairs.shape[:-2], -1)], axis=-2)


def resize_plane(plane: Bytes, height: int, width: int) -> Bytes:
    """`[..., h, w, c]` as `[..., height, width, c]`."""
    values = plane.astype(np.float32)
    for axis, size in ((-3, height), (-2, width)):
        low, high, share = _positions(values.shape[axis], size)
        near, far = np.take(values, low, axis), np.take(values, high, axis)
        weight = share.reshape(-1, *([1] * (-axis - 1)))
        values = near + (far - near) * weight
    return np.rint(values).astype(np.uint8)


def _positions(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For every new sample its two old neighbours and the share of the second."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.floor(centre).astype(np.intp)
    return low, np.minimum(low + 1, old - 1), (centre - low).astype(np.float32)
