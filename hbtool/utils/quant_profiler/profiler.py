"""`model_profiler`: all tools on two neighbouring stages, with one page that links their files."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hbtool.errors import UsageError
from hbtool.utils.quant_profiler.features import get_raw_features, profile_featuremap
from hbtool.utils.quant_profiler.questions import (
    check_deploy_device,
    check_qconfig,
    check_unfused_operations,
    featuremap_similarity,
    get_module_called_count,
)
from hbtool.utils.quant_profiler.weights import compare_weights

_MODES = ("FvsQ", "CvsQ", "QvsQ")


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
    """
    if mode not in _MODES:
        raise UsageError(f"there is no mode {mode!r}.", where="model_profiler", hint=f"Use {', '.join(_MODES)}.")
    folder = Path(out_dir or "horizon_quant_debug")
    folder.mkdir(parents=True, exist_ok=True)
    more = {name: dict(v) for name, v in (kwargs_dict or {}).items()}
    sections: list[tuple[str, str]] = []

    def add(name: str, file: str) -> None:
        path = folder / file
        sections.append((name, path.read_text() if path.is_file() else ""))

    if mode == "FvsQ":
        groups = check_unfused_operations(model1, example_inputs, False, **more.get("check_unfused_operations", {}))
        sections.append(("check_unfused_operations", "\n".join(", ".join(g) for g in groups) or "everything is fused"))
    counts = get_module_called_count(model1, example_inputs, None, False)
    sections.append(("get_module_called_count", "\n".join(f"{n}  {c}" for n, c in counts.items())))
    if mode != "QvsQ":
        featuremap_similarity(model1, model2, example_inputs, out_dir=folder, **more.get("featuremap_similarity", {}))
        add("featuremap_similarity", "similarity.txt")
        check_qconfig(model2, example_inputs, out_dir=folder, **more.get("check_qconfig", {}))
        add("check_qconfig", "qconfig_info.txt")
    else:
        from hbtool.utils.quant_profiler.scripts import script_profile

        script_profile(model2, example_inputs, out_dir=folder)
        add("script_profile", "script_profile.txt")
    compare_weights(model1, model2, out_dir=folder, **more.get("compare_weights", {}))
    add("compare_weights", "weight_comparison.txt")
    shown = model1 if mode == "QvsQ" else model2
    profile_featuremap(get_raw_features(shown, example_inputs), out_dir=folder, **more.get("profile_featuremap", {}))
    add("profile_featuremap", "statistic.txt")
    check_deploy_device(shown, False, folder)
    add("check_deploy_device", "deploy_device.txt")
    page = folder / "profiler.html"
    body = "".join(f"<h2>{html.escape(n)}</h2><pre>{html.escape(t)}</pre>" for n, t in sections)
    head = '<!doctype html><meta charset="utf-8"><title>profiler</title>'
    page.write_text(f"{head}<h1>{html.escape(mode)}</h1>{body}", encoding="utf-8")
    return page
