"""infer: an artifact on files, any number of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hbtool.errors import DataError, UsageError
from hbtool.ir.save import written_beside
from hbtool.runtime.artifact import load_artifact
from hbtool.runtime.input_format import InputFormat, from_rgb
from hbtool.runtime.session import Backend, Session

IMAGES = {".jpg", ".jpeg", ".png", ".bmp"}


def read_feeds(
    artifact_path: str | Path, assignments: Sequence[str], model: str | None = None
) -> list[dict[str, np.ndarray]]:
    """Inputs from `NAME=FILE` or, with one input, `FILE`; an .npz holds all inputs by name.

    Files: .npy, .npz, images (decoded, resized to the input, brought to the runtime format), anything else raw bytes.
    Several files for one input are several samples; `model` chooses one of a packed file.

    Raises:
        UsageError: a name is missing or unknown.
        DataError: a file is missing or does not fit.
    """
    forms = {part.name: part for form in load_artifact(artifact_path, model).inputs for part in form.parts}
    columns: dict[str, list[np.ndarray]] = {}
    for text in assignments:
        name, _, file = text.rpartition("=")
        path = Path(file)
        if path.suffix == ".npz":
            for key, array in _npz(path).items():
                columns.setdefault(key, []).append(array)
            continue
        if not name:
            if len(forms) != 1:
                raise UsageError(
                    f"the artifact has {len(forms)} inputs, {text!r} does not say which one it is for",
                    hint=f"Write NAME=FILE; names: {', '.join(forms)}.",
                )
            name = next(iter(forms))
        if name not in forms:
            raise UsageError(f"there is no input {name!r}", hint=f"Inputs: {', '.join(forms)}.")
        columns.setdefault(name, []).append(read_input(path, forms[name]))
    if missing := [name for name in forms if name not in columns]:
        raise UsageError(f"input {missing[0]!r} has no file", hint="Give --input NAME=FILE for every input.")
    counts = {name: len(arrays) for name, arrays in columns.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{n}: {c}" for n, c in counts.items())
        raise UsageError(f"the inputs have different numbers of files ({listed})", hint="Give as many for each.")
    return [{name: columns[name][i] for name in columns} for i in range(next(iter(counts.values())))]


def read_input(path: Path, form: InputFormat) -> np.ndarray:
    """One file as the runtime format of one input."""
    if not path.is_file():
        raise DataError("the input file does not exist", where=str(path))
    if path.suffix.lower() in IMAGES:
        return _image(path, form)
    data = path.read_bytes()
    if data[:6] == b"\x93NUMPY":
        return np.asarray(np.load(path, allow_pickle=False))
    if len(data) != form.fed_bytes:
        raise DataError(
            f"the file has {len(data)} bytes, input {form.name!r} takes {form.fed_bytes} "
            f"({form.type_rt} {'x'.join(map(str, form.fed_shape))} {form.fed_dtype})",
            where=str(path),
            hint="Give raw bytes of that size, an .npy file, or an image.",
        )
    return np.frombuffer(data, form.fed_dtype).reshape(form.fed_shape)


def infer(
    artifact_path: str | Path,
    feeds: Sequence[dict[str, np.ndarray]],
    backend: Backend = "host",
    model: str | None = None,
) -> list[dict[str, np.ndarray]]:
    """Outputs by name, one mapping per sample; `model` chooses one of a packed file."""
    session = Session(artifact_path, backend, model)
    names = [o.name for o in session.get_outputs()]
    return [dict(zip(names, session.run(None, feed), strict=True)) for feed in feeds]


def save_outputs(results: Sequence[dict[str, np.ndarray]], folder: Path) -> list[Path]:
    """One .npz per sample, outputs by name."""
    paths = []
    for index, outputs in enumerate(results):
        path = folder / f"output_{index}.npz"
        with written_beside(path) as beside, beside.open("wb") as stream:
            np.savez(stream, **outputs)  # type: ignore[arg-type]
        paths.append(path)
    return paths


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise DataError(f"the archive cannot be read: {error}", where=str(path)) from error


def _image(path: Path, form: InputFormat) -> np.ndarray:
    if not form.is_image:
        raise DataError(
            f"input {form.name!r} takes feature maps, not images", where=str(path), hint="Give an .npy or raw file."
        )
    _, _, height, width = form.nchw
    try:
        with Image.open(path) as image:
            rgb = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    except OSError as error:
        raise DataError(f"the image cannot be read: {error}", where=str(path)) from error
    return from_rgb(rgb, form)
