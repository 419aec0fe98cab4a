"""Reads one sample file: raw numbers, .npy or a picture, with an error that says what would fit."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hbtool.calibration.input_spec import OPEN_DTYPES, RAW_DTYPES, InputSpec
from hbtool.errors import DataError
from hbtool.numerics.color import rgb_to_yuv444

_NPY_MAGIC = b"\x93NUMPY"
_PICTURE_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"BM": "BMP"}
_PICTURE_MODES = {"gray": "L"}


def sample_files(folder: Path, where: str) -> tuple[Path, ...]:
    """The files of a sample folder, sorted by name; hidden files and subfolders are left out.

    Raises:
        DataError: the folder is missing or holds no file.
    """
    if not folder.is_dir():
        raise DataError(
            f"the calibration folder {str(folder)!r} does not exist",
            where=where,
            hint="Correct cal_data_dir, or use calibration_type skip for a trial without data.",
        )
    files = tuple(sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")))
    if not files:
        raise DataError(
            f"the calibration folder {str(folder)!r} holds no files", where=where, hint="Put one file per sample there."
        )
    return files


def read_sample(path: Path, spec: InputSpec) -> NDArray[np.generic]:
    """One sample in the training type and layout, shaped as the model's input.

    Raises:
        DataError: the file cannot be read, has the wrong size or shape, or holds NaN or infinities.
    """
    if spec.preprocess_on:
        array: NDArray[np.generic] = read_picture(path, spec)
    else:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the file: {error.strerror}", where=str(path)) from error
        array = _npy(path, spec) if data.startswith(_NPY_MAGIC) else _raw(path, data, spec)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = "NaN" if np.isnan(array).any() else "infinite values"
        raise DataError(f"the sample holds {bad}", where=str(path), hint="Write it again, or take it out.")
    return array


def fitting_dtype(size: int, spec: InputSpec) -> np.dtype[np.generic] | None:
    """What a raw file of `size` bytes is read as: the stated or expected dtype, or the one its size fits."""
    others = () if spec.type_stated else OPEN_DTYPES
    kinds = [spec.raw_dtype, *(np.dtype(name) for name in others)]
    return next((kind for kind in kinds if size == math.prod(spec.shape) * kind.itemsize), None)


def npy_type(path: Path) -> str | None:
    """The dtype of an .npy file (which is told by its content); None for any other file."""
    with path.open("rb") as stream:
        if stream.read(len(_NPY_MAGIC)) != _NPY_MAGIC:
            return None
    return str(np.load(path, mmap_mode="r", allow_pickle=False).dtype.name)


def stored_type(path: Path, spec: InputSpec) -> str:
    """What a sample file holds: a dtype, or `picture`."""
    if spec.preprocess_on:
        return "picture"
    found = fitting_dtype(path.stat().st_size, spec)
    return npy_type(path) or str((found if found is not None else spec.raw_dtype).name)


def check_sample(path: Path, spec: InputSpec) -> None:
    """What `read_sample` would refuse by type and size, without reading the numbers.

    Raises:
        DataError: the file is no picture, or does not fit the input.
    """
    try:
        if spec.preprocess_on:
            with Image.open(path):
                return
        with path.open("rb") as stream:
            is_npy = stream.read(len(_NPY_MAGIC)) == _NPY_MAGIC
        fits = fitting_dtype(path.stat().st_size, spec) is not None
    except (UnidentifiedImageError, OSError):
        read_sample(path, spec)
        return
    if is_npy:
        _npy(path, spec, header_only=True)
    elif not fits:
        read_sample(path, spec)


def read_picture(path: Path, spec: InputSpec) -> NDArray[np.float32]:
    """A JPEG, PNG or BMP file, resized to the input's height and width (bilinear), 0..255 in the training colours.

    Raises:
        DataError: the file is no picture.
    """
    height, width = spec.height_width
    try:
        with Image.open(path) as picture:
            resized = picture.convert(_PICTURE_MODES.get(spec.type_train, "RGB")).resize(
                (width, height), Image.Resampling.BILINEAR
            )
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(
            "cannot be read as a picture (jpg, png, bmp)",
            where=str(path),
            hint="With preprocess_on every file must be a picture; switch it off for raw or .npy data.",
        ) from error
    pixels = np.asarray(resized, np.float32).reshape(height, width, -1).transpose(2, 0, 1)
    if spec.type_train == "bgr":
        pixels = pixels[::-1]
    elif spec.type_train == "yuv444":
        pixels = rgb_to_yuv444(pixels)
    ordered = pixels.transpose(1, 2, 0) if spec.layout_train == "NHWC" else pixels
    return np.ascontiguousarray(np.broadcast_to(ordered, spec.shape), np.float32)


def _npy(path: Path, spec: InputSpec, *, header_only: bool = False) -> NDArray[np.generic]:
    try:
        array = np.load(path, mmap_mode="r" if header_only else None, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"the .npy file is damaged or holds objects: {error}", where=str(path)) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise DataError(f"holds {getattr(array, 'dtype', 'no array')}, not numbers", where=str(path))
    flat_fits = array.ndim == 1 and array.size == math.prod(spec.shape)
    if not flat_fits and _without_ones(array.shape) != _without_ones(spec.shape):
        raise DataError(
            f"holds an array of shape {array.shape}, the input {spec.name!r} has {spec.shape} ({spec.layout_train})",
            where=str(path),
            hint="Save samples in the layout of input_layout_train.",
        )
    return np.asarray(array.reshape(spec.shape))


def _raw(path: Path, data: bytes, spec: InputSpec) -> NDArray[np.generic]:
    elements = math.prod(spec.shape)
    dtype = spec.raw_dtype
    found = fitting_dtype(len(data), spec)
    if found is None:
        raise DataError(
            f"found {len(data)} bytes, expected {elements * dtype.itemsize} "
            f"({'x'.join(map(str, spec.shape))} of {dtype.name}) for input {spec.name!r}",
            where=str(path),
            hint=_size_hint(data, elements, dtype),
        )
    return np.frombuffer(data, found).reshape(spec.shape)


def _size_hint(data: bytes, elements: int, dtype: np.dtype[np.generic]) -> str:
    """What would make the bytes fit."""
    for magic, kind in _PICTURE_MAGIC.items():
        if data.startswith(magic):
            return f"This is a {kind} picture: set preprocess_on: True, or write the decoded pixels."
    fitting = [t for t in RAW_DTYPES if len(data) == elements * np.dtype(t).itemsize and t != dtype.name]
    if fitting:
        return f"The size fits {' or '.join(fitting)}: set cal_data_type accordingly."
    if elements and len(data) % (elements * dtype.itemsize) == 0:
        return f"The file holds {len(data) // (elements * dtype.itemsize)} samples: write one file per sample."
    return "No known dtype fits: check input_shape, and that the file was written with tofile."


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d in shape if d != 1)
