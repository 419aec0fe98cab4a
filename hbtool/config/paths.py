"""The files and folders a configuration names, absolute, and whether they exist."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hbtool.config.marches import is_target_file
from hbtool.config.schema import LoadedConfig
from hbtool.config.yaml_text import find_placeholder
from hbtool.errors import ConfigError


@dataclass(frozen=True)
class ResolvedPaths:
    """Absolute paths; what the configuration does not name is None or empty."""

    onnx_model: Path | None
    caffe_model: Path | None
    prototxt: Path | None
    working_dir: Path
    cal_data_dirs: tuple[Path, ...]
    target_file: Path | None
    cache_dir: Path | None


def resolve(loaded: LoadedConfig, text: str) -> Path:
    """A path of the configuration as an absolute one; relative ones count from the folder of its file."""
    return Path(os.path.normpath(Path(loaded.folder, Path(text).expanduser())))


def resolve_paths(loaded: LoadedConfig) -> ResolvedPaths:
    """Every path of the configuration."""

    def absolute(text: str) -> Path:
        return resolve(loaded, text)

    def optional(text: str | None) -> Path | None:
        return absolute(text) if text else None

    model, compiler = loaded.model_parameters, loaded.compiler_parameters
    working_dir = absolute(model.working_dir)
    cache = absolute(compiler.cache_path) if compiler.cache_path else working_dir / "cache"
    return ResolvedPaths(
        onnx_model=optional(model.onnx_model),
        caffe_model=optional(model.caffe_model),
        prototxt=optional(model.prototxt),
        working_dir=working_dir,
        cal_data_dirs=tuple(absolute(text) for text in loaded.calibration_parameters.cal_data_dir if text),
        target_file=absolute(model.march) if is_target_file(model.march) else None,
        cache_dir=cache if compiler.cache_mode != "disable" else None,
    )


def check_files(loaded: LoadedConfig, *, data: bool = True) -> ResolvedPaths:
    """`resolve_paths`; a ConfigError at the key whose file (with `data`: sample folder too) does not exist."""
    paths = resolve_paths(loaded)
    for key in ("onnx_model", "caffe_model", "prototxt"):
        _require(loaded, "model_parameters", key, getattr(paths, key), is_folder=False)
    _require(loaded, "model_parameters", "march", paths.target_file, is_folder=False)
    _require_folder(loaded, "model_parameters", "working_dir", paths.working_dir)
    if paths.cache_dir is not None and loaded.compiler_parameters.cache_path:
        _require_folder(loaded, "compiler_parameters", "cache_path", paths.cache_dir)
    if data and loaded.calibration_parameters.calibration_type not in ("load", "skip"):
        for folder in paths.cal_data_dirs:
            _require(loaded, "calibration_parameters", "cal_data_dir", folder, is_folder=True)
    return paths


def _require_folder(loaded: LoadedConfig, section: str, key: str, path: Path) -> None:
    """A folder that is there and may be written to, or can be made."""
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        reason = f"{nearest} is a file" if nearest == path else f"{nearest} is a file, so {path} cannot be made"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"{nearest} must not be written to"
    else:
        return
    raise ConfigError(f"{key}: {reason}.", where=str(loaded.place(section, key)), hint="Name another folder.")


def _require(loaded: LoadedConfig, section: str, key: str, path: Path | None, *, is_folder: bool) -> None:
    if path is None or (path.is_dir() if is_folder else path.is_file()):
        return
    what = "folder" if is_folder else "file"
    hint = f"Relative paths count from {loaded.folder}."
    if find_placeholder(path.name):
        hint = "Fill in the real name for the placeholder."
    raise ConfigError(f"{key}: the {what} {path} does not exist.", where=str(loaded.place(section, key)), hint=hint)
