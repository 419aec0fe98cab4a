"""A small configuration to change key by key."""

from __future__ import annotations

BASE: dict[str, dict[str, str | None]] = {
    "model_parameters": {"onnx_model": "net.onnx", "march": "bayes-e"},
    "input_parameters": {
        "input_type_rt": "nv12",
        "input_type_train": "rgb",
        "input_layout_train": "NCHW",
        "norm_type": "data_scale",
        "scale_value": "0.0039",
    },
    "calibration_parameters": {"cal_data_dir": "./cal_f32", "cal_data_type": "float32"},
    "compiler_parameters": {"compile_mode": "latency"},
}


def config_text(**changes: str | None) -> str:
    """BASE as YAML; `section__key="text"` sets a key (raw YAML), None removes it. Keys stand in a known order."""
    groups = {section: dict(keys) for section, keys in BASE.items()}
    for path, value in changes.items():
        section, _, key = path.partition("__")
        group = groups.setdefault(section + "_parameters" if section != "custom_op" else section, {})
        if value is None:
            group.pop(key, None)
        else:
            group[key] = value
    lines = []
    for section, keys in groups.items():
        lines.append(f"{section}:")
        lines += [f"  {key}: {value}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def line_of(text: str, key: str) -> int:
    """The line a key stands on."""
    return next(n for n, line in enumerate(text.splitlines(), 1) if line.strip().startswith(f"{key}:"))
