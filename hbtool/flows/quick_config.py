"""A configuration for a model without a config.yaml: what checker and --fast-perf build from a model and a march."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from hbtool.config.inputs import ModelInput
from hbtool.config.loader import parse_config
from hbtool.config.marches import is_target_file
from hbtool.config.model_check import ModelFacts
from hbtool.config.model_section import REMOVABLE
from hbtool.config.schema import LoadedConfig
from hbtool.errors import UsageError
from hbtool.flows.inputs import model_facts
from hbtool.flows.named_target import named_target
from hbtool.ir.load import read_proto


def parse_shapes(pairs: Sequence[tuple[str, str]]) -> dict[str, tuple[int, ...]]:
    """`--input-shape NAME 1x3x224x224` pairs.

    Raises:
        UsageError: a shape cannot be read, or a name comes twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, text in pairs:
        parts = text.lower().replace(",", "x").split("x")
        if not all(p.strip().isdigit() and int(p) > 0 for p in parts):
            raise UsageError(f"--input-shape {name}: {text!r} is no shape", hint="Write sizes as 1x3x224x224.")
        if name in shapes:
            raise UsageError(f"--input-shape names {name!r} twice", hint="Give one shape per input.")
        shapes[name] = tuple(int(p) for p in parts)
    return shapes


def check_config(model: Path, march: str, shapes: Mapping[str, tuple[int, ...]]) -> LoadedConfig:
    """What `checker` uses: every input a feature map, random data, optimisation O0."""
    return _config(model, march, shapes, images=False, level="O0", working_dir=".hb_check")


def fast_config(
    model: Path, march: str, shapes: Mapping[str, tuple[int, ...]], working_dir: str = "model_output"
) -> LoadedConfig:
    """What `makertbin --fast-perf` uses: the fastest program, whatever the numbers.

    Everything the BPU can run is put there, removable head and tail nodes go, random data calibrate. A 4-D input with 3
    channels and an even height and width is taken as an nv12 camera image, everything else as a feature map.
    """
    loaded = _config(model, march, shapes, images=True, level="O3", working_dir=working_dir)
    return _with_run_fast(loaded)


def _with_run_fast(loaded: LoadedConfig) -> LoadedConfig:
    calibration = loaded.config.calibration_parameters
    flags = calibration.optimization.model_copy(update={"run_fast": True})
    config = loaded.config.model_copy(
        update={
            "calibration_parameters": calibration.model_copy(update={"optimization": flags}),
            "model_parameters": loaded.config.model_parameters.model_copy(update={"remove_node_type": FAST_REMOVALS}),
        }
    )
    return replace(loaded, config=config)


FAST_REMOVALS = (*REMOVABLE, *REMOVABLE)
"""Twice, because one that goes can uncover one that was listed before it."""


def _config(
    model: Path, march: str, shapes: Mapping[str, tuple[int, ...]], *, images: bool, level: str, working_dir: str
) -> LoadedConfig:
    facts = model_facts(read_proto(model))
    known = [entry.name for entry in facts.inputs]
    if unknown := [name for name in shapes if name not in known]:
        raise UsageError(f"the model has no input {unknown[0]!r}", hint=f"Inputs: {', '.join(known)}.")
    inputs = [ModelInput(i.name, shapes.get(i.name, i.shape), i.dtype) for i in facts.inputs]
    _refuse_free(inputs)
    kinds = [_image_layout(entry) if images else None for entry in inputs]
    if named_target(march).family == "nash" and level == "O3":
        level = "O2"
    text = yaml.safe_dump(
        {
            "model_parameters": {
                "onnx_model": str(model.absolute()),
                "march": str(Path(march).absolute()) if is_target_file(march) else march,
                "output_model_file_prefix": model.stem,
                "working_dir": working_dir,
            },
            "input_parameters": {
                "input_name": "; ".join(entry.name for entry in inputs),
                "input_shape": "; ".join("x".join(map(str, entry.shape)) for entry in inputs),
                "input_type_rt": "; ".join("nv12" if k else "featuremap" for k in kinds),
                "input_type_train": "; ".join("bgr" if k else "featuremap" for k in kinds),
                "input_layout_train": "; ".join(k or "NCHW" for k in kinds),
            },
            "calibration_parameters": {"calibration_type": "skip"},
            "compiler_parameters": {"optimize_level": level, "compile_mode": "latency", "debug": True},
        },
        sort_keys=False,
    )
    # The text is nobody's file: its lines mean nothing.
    return replace(parse_config(text, file=str(model)), places={})


def _refuse_free(inputs: Sequence[ModelInput]) -> None:
    for entry in inputs:
        free = [d for d in entry.shape if not isinstance(d, int) or d <= 0]
        if free:
            example = "x".join(str(d) if isinstance(d, int) and d > 0 else "1" for d in entry.shape)
            named = ", ".join(repr(d) if isinstance(d, str) else "unnamed" for d in free)
            raise UsageError(
                f"input {entry.name!r} has free dimensions ({named})",
                hint=f"Give its shape: --input-shape {entry.name} {example}",
            )


def _image_layout(entry: ModelInput) -> str | None:
    """NCHW or NHWC where the input looks like a camera image."""
    shape = entry.shape
    if len(shape) != 4 or not entry.dtype.startswith("float"):
        return None
    for layout, channels, sizes in (("NCHW", shape[1], shape[2:]), ("NHWC", shape[3], shape[1:3])):
        even = all(isinstance(n, int) and n % 2 == 0 and n > 3 for n in sizes)
        if channels == 3 and even:
            return layout
    return None


def facts_of(model: Path) -> ModelFacts:
    """What the file alone says of a model."""
    return model_facts(read_proto(model))
