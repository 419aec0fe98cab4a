"""Calibration samples as the float graph takes them: read when asked for, one at a time, as often as needed.

A sample starts as what the original model would get (training colours and layout, 0..255) and leaves as the graph's
input: featuremaps as they are, images in the runtime's ×_128 type, so that calibration sees what the camera's format
does to them (hb_mapper.md 2.5 and 9.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hbtool.calibration.input_spec import InputSpec
from hbtool.calibration.sample_files import (
    check_sample,
    fitting_dtype,
    npy_type,
    read_sample,
    sample_files,
    stored_type,
)
from hbtool.errors import DataError
from hbtool.numerics.color import check_even, to_runtime_128

Array = NDArray[np.generic]

RANDOM_SAMPLES = 10
"""Samples of random data where none are given (calibration_type skip)."""


class FolderDataset:
    """Samples from one folder per input; the n-th files by name belong together.

    Args:
        specs: the model's inputs, each with its `cal_data_dir`.
        limit: use the first `limit` samples only.

    Raises:
        DataError: a folder is missing or empty, or the folders hold different numbers of files.
    """

    def __init__(self, specs: Sequence[InputSpec], limit: int | None = None) -> None:
        self.specs = tuple(specs)
        self._files = {spec.name: self._list(spec)[:limit] for spec in self.specs}
        counts = {name: len(files) for name, files in self._files.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
            raise DataError(
                f"the inputs have different numbers of samples ({listed})",
                hint="Files are paired by sorted name, so every folder of cal_data_dir needs the same number.",
            )
        self._count = next(iter(counts.values()), 0)

    def _list(self, spec: InputSpec) -> tuple[Path, ...]:
        where = f"input {spec.name!r}"
        _check_size(spec)
        if spec.cal_data_dir is None:
            raise DataError("no calibration folder is given", where=where, hint="Set cal_data_dir, one per input.")
        return sample_files(spec.cal_data_dir, where)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return (self[index] for index in range(self._count))

    def __getitem__(self, index: int) -> dict[str, Array]:
        """Read sample number `index`."""
        return {s.name: to_graph_input(read_sample(self._files[s.name][index], s), s) for s in self.specs}

    def files(self, index: int) -> dict[str, Path]:
        """The files of one sample, by input name."""
        return {name: files[index] for name, files in self._files.items()}

    def unfit(self) -> Iterator[tuple[int, str, DataError]]:
        """(sample, input, what is wrong) of every file whose size or type does not fit; no numbers are read."""
        for spec in self.specs:
            for index, path in enumerate(self._files[spec.name]):
                try:
                    check_sample(path, spec)
                except DataError as error:
                    yield index, spec.name, error

    def check(self) -> None:
        """Refuse files that do not fit.

        Raises:
            DataError: of the first one.
        """
        for _, _, error in self.unfit():
            raise error

    def remarks(self) -> tuple[str, ...]:
        """Sentences about data that are legal but look wrong, judged by the first sample."""
        if not self._count:
            return ()
        found: list[str] = []
        for spec in self.specs:
            path = self._files[spec.name][0]
            found += type_remarks(spec, path)
            found += value_remarks(spec, read_sample(path, spec), path)
        return tuple(found)

    def description(self) -> tuple[FirstFile, ...]:
        """For the log: the first file of every input with its md5."""
        return tuple(
            FirstFile(s.name, first := self._files[s.name][0], _md5(first), self._count, s.shape, stored_type(first, s))
            for s in self.specs
            if self._count
        )


@dataclass(frozen=True)
class FirstFile:
    """The first sample file of an input, as the log names it; `dtype` is what the file holds, or `picture`."""

    input_name: str
    path: Path
    md5: str
    samples: int
    shape: tuple[int, ...]
    dtype: str


class RandomDataset:
    """Seeded random samples: bytes for images, a normal distribution for featuremaps, 0 and 1 for integer inputs.

    Good for structure and speed, not for accuracy (calibration_type skip).
    """

    def __init__(self, specs: Sequence[InputSpec], count: int = RANDOM_SAMPLES, seed: int = 0) -> None:
        self.specs = tuple(specs)
        for spec in self.specs:
            _check_size(spec)
        self._count = count
        self._seed = seed

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return (self[index] for index in range(self._count))

    def __getitem__(self, index: int) -> dict[str, Array]:
        """Make sample number `index`, the same one every time."""
        rng = np.random.default_rng((self._seed, index))
        return {spec.name: to_graph_input(_random(spec, rng), spec) for spec in self.specs}


Dataset = FolderDataset | RandomDataset
"""A sized, re-iterable stream of `{input name: array}`."""


def to_graph_input(sample: Array, spec: InputSpec) -> Array:
    """A sample in training type and layout, as the float graph takes it: same shape, image types minus 128.

    Args:
        sample: array of `spec.shape`; images 0..255 in the colours of `type_train`.
        spec: the input.

    Returns:
        Array of `spec.shape` and `spec.dtype`.
    """
    if not spec.is_image:
        return np.ascontiguousarray(sample, spec.dtype)
    planes = np.moveaxis(sample, -1, 1) if spec.layout_train == "NHWC" else sample
    signed = to_runtime_128(planes, spec.type_train, spec.type_rt, spec.space_and_range)  # type: ignore[arg-type]
    ordered = np.moveaxis(signed, 1, -1) if spec.layout_train == "NHWC" else signed
    return np.ascontiguousarray(ordered, spec.dtype)


def _check_size(spec: InputSpec) -> None:
    if spec.type_rt == "nv12" or (spec.type_rt == "yuv444" and spec.is_image):
        check_even(*spec.height_width)


def _random(spec: InputSpec, rng: np.random.Generator) -> Array:
    if spec.is_image:
        return rng.integers(0, 256, spec.shape, dtype=np.uint8)
    if np.dtype(spec.dtype).kind == "f":
        return rng.standard_normal(spec.shape, dtype=np.float32)
    return rng.integers(0, 2, spec.shape)


def type_remarks(spec: InputSpec, first: Path) -> Iterator[str]:
    """What the folder's name or the first file says against the configured type."""
    folder = spec.cal_data_dir
    if folder is None or not spec.cal_data_type or spec.preprocess_on:
        return
    stored = npy_type(first)
    if stored is not None:
        if spec.type_stated and stored != spec.cal_data_type:
            yield (
                f"input {spec.name!r}: {first.name} holds {stored}, cal_data_type says {spec.cal_data_type}; .npy "
                "files carry their own type, which counts."
            )
        return
    found = fitting_dtype(first.stat().st_size, spec)
    if found is not None and found != spec.raw_dtype:
        yield (
            f"input {spec.name!r}: {first.name} has the size of {found.name}, and no cal_data_type is given: raw files "
            f"of that size are read as {found.name}. Write cal_data_type: {found.name}."
        )


def value_remarks(spec: InputSpec, sample: Array, path: Path) -> Iterator[str]:
    """Images whose numbers do not look like 0..255."""
    if not spec.is_image or not sample.size:
        return
    low, high = float(np.min(sample)), float(np.max(sample))
    if low < 0 or high > 255 or 0 < high <= 1.0:
        yield (
            f"input {spec.name!r}: {path.name} spans {low:g}..{high:g}, but images are expected as 0..255 before "
            "mean_value and scale_value; already normalized data are the most frequent cause of bad accuracy."
        )


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
