"""A commented config.yaml to start from, written for one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from hbtool.config.inputs import ModelInput
from hbtool.config.model_check import ModelFacts
from hbtool.config.schema import SECTIONS
from hbtool.config.section import keys_of

_WIDTH = 112


Extent = Literal["simple", "usual", "full"]
"""simple: the keys a build needs, no comments; usual: commented; full: every key, those with a default as a comment."""
EXAMPLE = ModelFacts((ModelInput("input", (1, 3, 224, 224)),))
"""What a template is written for where there is no model yet."""


def template(
    facts: ModelFacts,
    *,
    march: str = "bayes-e",
    onnx_model: str = "model.onnx",
    prefix: str = "model",
    extent: Extent = "usual",
) -> str:
    """A config.yaml for the model, comments from the key descriptions; it loads without a warning.

    Pictures are guessed from the shape (4-D, 3 channels; even sizes get nv12); open dimensions become 1 or 224 and
    must be looked at.
    """
    inputs = facts.inputs
    kinds = [_guess(entry) for entry in inputs]
    shapes = ["x".join(map(str, _fixed(entry))) for entry in inputs]
    values: dict[str, dict[str, str]] = {
        "model_parameters": {
            "onnx_model": _quoted(onnx_model),
            "march": _quoted(march),
            "output_model_file_prefix": _quoted(prefix),
            "working_dir": _quoted("model_output"),
        },
        "input_parameters": {
            "input_name": _listed([entry.name for entry in inputs]),
            "input_shape": _listed(shapes),
            "input_type_rt": _listed([rt for rt, _, _ in kinds]),
            "input_type_train": _listed([train for _, train, _ in kinds]),
            "input_layout_train": _listed([layout for _, _, layout in kinds]),
            "norm_type": _listed(["no_preprocess"] * len(inputs)),
        },
        "calibration_parameters": {
            "calibration_type": _quoted("default"),
            "cal_data_dir": _listed([f"./calibration_data/{_file_word(entry.name)}" for entry in inputs]),
            "cal_data_type": _listed(["float32"] * len(inputs)),
        },
        "compiler_parameters": {
            "compile_mode": _quoted("latency"),
            "optimize_level": _quoted("O2"),
            "debug": "True",
        },
    }
    offered = {
        "model_parameters": {"node_info": "{'node': {'ON': 'BPU', 'InputType': 'int16', 'OutputType': 'int16'}}"},
        "input_parameters": {
            "mean_value": "'123.675 116.28 103.53'",
            "scale_value": "'0.01712475 0.017507 0.01742919'",
        },
        "calibration_parameters": {"optimization": "'set_Softmax_input_int8,set_Softmax_output_int8'"},
        "compiler_parameters": {"jobs": "4"},
    }
    lines: list[str] = []
    for section, keys in values.items():
        known = keys_of(SECTIONS[section])
        lines.append(f"{section}:")
        if extent == "simple":
            lines += [*(f"  {name}: {text}" for name, text in keys.items()), ""]
            continue
        for name, text in keys.items():
            lines += [*_comment(known[name].text), f"  {name}: {text}", ""]
        further = offered[section] if extent == "usual" else _others(section, keys) | offered[section]
        for name, text in further.items():
            lines += [*_comment(known[name].text), f"  # {name}: {text}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _others(section: str, written: Mapping[str, str]) -> dict[str, str]:
    """The keys of a section that count and are not written yet, with their defaults as a comment."""
    model = SECTIONS[section]
    others = {name: key for name, key in keys_of(model).items() if name not in written and "all" not in key.ignored_on}
    return {name: _default(model.model_fields[name].default) for name in others}


def _default(value: object) -> str:
    """A default as it is written: '' where the key says nothing."""
    if isinstance(value, bool | int | float):
        return str(value)
    return _quoted(value if isinstance(value, str) else "")


def _fixed(entry: ModelInput) -> list[int]:
    fixed = []
    for axis, size in enumerate(entry.shape):
        known = isinstance(size, int) and size > 0
        fixed.append(
            int(size) if known and isinstance(size, int) else (1 if axis == 0 or len(entry.shape) != 4 else 224)
        )
    return fixed


def _guess(entry: ModelInput) -> tuple[str, str, str]:
    """(rt, train, layout) that fit the shape."""
    shape = _fixed(entry)
    if len(shape) == 4 and "float" in entry.dtype:
        for layout, channels, sizes in (("NCHW", shape[1], shape[2:]), ("NHWC", shape[3], shape[1:3])):
            if channels == 3 and min(sizes) > 8:
                even = all(size % 2 == 0 for size in sizes)
                return ("nv12" if even else "rgb"), "rgb", layout
    return "featuremap", "featuremap", "NCHW"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _listed(parts: list[str]) -> str:
    return _quoted("; ".join(parts))


def _file_word(name: str) -> str:
    word = "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in name).strip(".")
    return word or "input"


def _comment(text: str) -> list[str]:
    lines, line = [], "  #"
    for word in text.split():
        if len(line) + 1 + len(word) > _WIDTH:
            lines.append(line)
            line = "  #"
        line += " " + word
    return [*lines, line]
