"""What calibration must know of one model input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from hbtool.errors import DataError
from hbtool.numerics.color import CHANNELS

OPEN_DTYPES = ("float32", "uint8")
"""What a raw file may be where nobody says what it is."""
RAW_DTYPES = ("float32", "uint8", "int32", "int16", "int8", "int64")
"""Types of raw sample files."""


@dataclass(frozen=True)
class InputSpec:
    """One input: the tensor the float graph takes, and where its samples come from.

    Mean and scale are not here: they are nodes of the graph.

    Attributes:
        name: the graph input's name.
        shape: its static shape, in `layout_train` order.
        dtype: its dtype.
        type_rt: what the application feeds: rgb, bgr, yuv444, nv12, gray or featuremap.
        type_train: what the model was trained on.
        layout_rt: NCHW or NHWC, of what the application feeds.
        layout_train: NCHW or NHWC, of `shape`.
        space_and_range: regular or bt601_video.
        cal_data_dir: the folder of samples, None for random data.
        cal_data_type: dtype of raw files; None: float32 where the folder's name ends in `_f32`, else uint8.
        preprocess_on: whether the files are pictures to decode and resize.
        type_stated: whether the user wrote `cal_data_type`: then other .npy files are a contradiction, a raw file of
            another size is an error; else raw files are read as uint8 or float32, whichever has their size.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DTypeLike = np.float32
    type_rt: str = "featuremap"
    type_train: str = "featuremap"
    layout_rt: str = "NCHW"
    layout_train: str = "NCHW"
    space_and_range: str = "regular"
    cal_data_dir: Path | None = None
    cal_data_type: str | None = None
    preprocess_on: bool = False
    type_stated: bool = True

    def __post_init__(self) -> None:
        if not self.is_image:
            return
        expected = CHANNELS.get(self.type_train)
        if len(self.shape) != 4 or self.channels != expected:
            raise DataError(
                f"an input of shape {self.shape} in {self.layout_train} cannot hold {self.type_train} images "
                f"({expected} channels)",
                where=f"input {self.name!r}",
                hint="Correct input_layout_train or input_type_train; other data are featuremap.",
            )

    @property
    def is_image(self) -> bool:
        """Whether the input is anything but a featuremap."""
        return self.type_train != "featuremap"

    @property
    def channels(self) -> int:
        """Size of the channel axis of a 4-D input."""
        return self.shape[3] if self.layout_train == "NHWC" else self.shape[1]

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of a 4-D input in pixels."""
        height, width = self.shape[1:3] if self.layout_train == "NHWC" else self.shape[2:4]
        return height, width

    @property
    def raw_dtype(self) -> np.dtype[np.generic]:
        """The dtype of raw sample files."""
        if self.cal_data_type:
            return np.dtype(self.cal_data_type)
        named_float = self.cal_data_dir is not None and self.cal_data_dir.name.endswith("_f32")
        return np.dtype(np.float32 if named_float else np.uint8)
