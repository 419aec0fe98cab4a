"""`model_profiler`: all tools on two neighbouring stages, with one page that shows what they found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from torch import nn

from hbtool.errors import UsageError
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.utils.quant_profiler.features import get_raw_features, profile_featuremap
from hbtool.utils.quant_profiler.qconfigs import check_qconfig
from hbtool.utils.quant_profiler.questions import (
    check_deploy_device,
    check_unfused_operations,
    get_module_called_count,
)
from hbtool.utils.quant_profiler.scripts import script_profile
from hbtool.utils.quant_profiler.similarity import featuremap_similarity
from hbtool.utils.quant_profiler.weights import compare_weights

_MODES = {
    "FvsQ": "float against calibrated or QAT",
    "CvsQ": "calibrated against QAT",
    "QvsQ": "QAT against fixed point",
}
_TOOLS = (
    "featuremap_similarity", "get_raw_features", "profile_featuremap", "compare_weights", "check_qconfig",
    "get_module_called_count", "check_unfused_operations",
)  # fmt: skip
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
:root{color-scheme:light dark} body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem}
pre{overflow:auto;max-height:32rem;font-size:12px;background:#8881;padding:.6rem}
</style></head><body><h1>{{ title }}</h1><p>{{ summary }}</p>
<ul>{% for s in sections %}<li><a href="#{{ s.name }}">{{ s.name }}</a></li>{% endfor %}</ul>
{% for s in sections %}<h2 id="{{ s.name }}">{{ s.name }}</h2>
{% if s.files %}<p>Files: {% for f in s.files %}<a href="{{ f }}">{{ f }}</a> {% endfor %}</p>{% endif %}
<pre>{{ s.text }}</pre>
{% endfor %}</body></html>
"""


def model_profiler(
    model1: nn.Module,
    model2: nn.Module,
    example_inputs: Any,
    mode: str,
    out_dir: str | Path | None = None,
    kwargs_dict: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Run every tool that fits the stages and write `profiler.html`; returns its path.

    Args:
        model1: the earlier stage.
        model2: the next stage of the same network.
        example_inputs: one batch.
        mode: `FvsQ` (float and calibrated), `CvsQ` (calibrated and QAT) or `QvsQ` (QAT and fixed point).
        out_dir: folder of all files; `horizon_quant_debug` if None.
        kwargs_dict: tool name -> further arguments (not the model, inputs or out_dir).

    Raises:
        UsageError: an unknown mode or tool, or the stages do not fit the mode.
    """
    more = {name: dict(v) for name, v in (kwargs_dict or {}).items()}
    _check(mode, model2, more)
    for arguments in more.values():
        arguments.pop("out_dir", None)
    folder = Path(out_dir or "horizon_quant_debug")
    sections: list[dict[str, Any]] = []

    def add(name: str, text: str, *files: str) -> None:
        sections.append({"name": name, "text": text, "files": files})

    def read(file: str) -> str:
        return (folder / file).read_text(encoding="utf-8")

    featuremap_similarity(model1, model2, example_inputs, out_dir=folder, **more.get("featuremap_similarity", {}))
    files = ("similarity.txt", "ordered_op_error_similarity.txt", "similarity.html")
    add("featuremap_similarity", read(files[0]), *files)
    shown = model1 if mode == "QvsQ" else model2
    features = get_raw_features(shown, example_inputs, **more.get("get_raw_features", {}))
    profile_featuremap(features, out_dir=folder, **more.get("profile_featuremap", {}))
    stem = more.get("profile_featuremap", {}).get("file_name") or "statistic"
    add("profile_featuremap", read(f"{stem}.txt"), f"{stem}.txt", f"{stem}.html")
    compare_weights(model1, model2, out_dir=folder, **more.get("compare_weights", {}))
    add("compare_weights", read("weight_comparison.txt"), "weight_comparison.txt")
    check_qconfig(shown, example_inputs, out_dir=folder, **more.get("check_qconfig", {}))
    add("check_qconfig", read("qconfig_info.txt"), "qconfig_info.txt")
    arguments = {"print_tabulate": False, **more.get("get_module_called_count", {})}
    counts = get_module_called_count(model1, example_inputs, **arguments)
    add("get_module_called_count", "\n".join(f"{n}  {c}" for n, c in counts.items()))
    if mode == "FvsQ":
        arguments = {"print_tabulate": False, **more.get("check_unfused_operations", {})}
        groups = check_unfused_operations(model1, example_inputs, **arguments)
        add("check_unfused_operations", "\n".join(", ".join(g) for g in groups) or "everything is fused")
    if mode == "QvsQ":
        script_profile(model2, example_inputs, out_dir=folder)
        add("script_profile", read("script_profile.txt"), "script_profile.txt")
    check_deploy_device(shown, False, folder)
    add("check_deploy_device", read("deploy_device.txt"), "deploy_device.txt")
    page = folder / "profiler.html"
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_PAGE)
    title = f"{type(model1).__name__}: {mode}"
    page.write_text(template.render(title=title, summary=_MODES[mode], sections=sections), encoding="utf-8")
    return page


def _check(mode: str, model2: nn.Module, more: Mapping[str, Any]) -> None:
    if mode not in _MODES:
        raise UsageError(f"there is no mode {mode!r}.", where="model_profiler", hint=f"Use {', '.join(_MODES)}.")
    if (mode == "QvsQ") != isinstance(model2, QuantizedGraphModule):
        raise UsageError(
            f"mode {mode} compares {_MODES[mode]}, and model2 is a {type(model2).__name__}.", where="model_profiler",
            hint="Give neighbouring stages, the earlier one first.",
        )  # fmt: skip
    if unknown := [name for name in more if name not in _TOOLS]:
        raise UsageError(
            f"kwargs_dict names {unknown[0]!r}, which is no tool.",
            where="model_profiler",
            hint=f"Use {', '.join(_TOOLS)}.",
        )
