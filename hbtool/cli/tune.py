"""`hbtool tune config.yaml`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result, text_table


@click.command("tune")
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--target-cosine", type=click.FloatRange(0, 1), help="Cosine similarity to reach [0.99 without --metric]."
)
@click.option(
    "--metric",
    metavar="FILE.py:FUNCTION",
    help="Your measure: FUNCTION(session) -> number, larger is better. This runs the code in FILE.py.",
)
@click.option("--target-metric", type=float, help="Value of the metric to reach.")
@click.option(
    "--max-drop", type=float, default=0.0, show_default=True, help="Else: allowed fall below the float model."
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="[CONFIG with .tuned.yaml]")
@common_options
def command(
    config: Path,
    target_cosine: float | None,
    metric: str | None,
    target_metric: float | None,
    max_drop: float,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Find the smallest set of changes that reaches an accuracy, with the price of each, and write a new config.yaml.

    The session that a metric gets has get_inputs, get_outputs and run(names, feeds), as onnxruntime's; images go in as
    bytes in the runtime format. Exit code 1 where the target is not reached (the best configuration is written anyway).
    """
    from hbtool.config import load_config
    from hbtool.flows.tune import TuneTarget, tune
    from hbtool.ir.save import write_text

    function = load_metric(metric) if metric is not None else None
    cosine = target_cosine if target_cosine is not None or function is not None else 0.99
    loaded = load_config(config)
    result = tune(loaded, TuneTarget(cosine, function, target_metric, max_drop), ConsoleTalk(quiet))
    path = write_text(output or config.with_suffix(".tuned.yaml"), result.text)
    if as_json:
        print_json({"config": str(path), "reached": result.chosen.reached, "float_metric": result.float_metric,
                    "base": _trial(result.base), "chosen": _trial(result.chosen), "prices_us": dict(result.prices_us),
                    "trials": [_trial(t) for t in result.trials]})  # fmt: skip
    else:
        print_result(tune_text(result, path))
    return 0 if result.chosen.reached else 1


def tune_text(result: Any, path: Path) -> str:
    """Tables of the trials and of what was chosen."""
    rows = [
        (", ".join(c.label for c in t.changes) or "as configured", f"{t.cosine:.6f}",
         "--" if t.metric is None else f"{t.metric:g}", _ms(t), "yes" if t.reached else "no")
        for t in result.trials
    ]  # fmt: skip
    parts = [text_table("Tried", ("Changes", "Cosine", "Metric", "Latency ms", "Reached"), rows)]
    before, after = result.base, result.chosen
    if after.changes:
        prices = [(c.label, f"{round(result.prices_us[c.label] / 1000, 3) + 0.0:+.3f}") for c in after.changes]
        parts.append(text_table("Chosen, and what each adds to the latency", ("Change", "ms"), prices))
    lines = []
    if result.float_metric is not None:
        lines.append(f"Metric: float {result.float_metric:g}, before {before.metric:g}, now {after.metric:g}")
    lines.append(f"Cosine: {before.cosine:.6f} -> {after.cosine:.6f}")
    lines.append(f"Latency: {_ms(before)} -> {_ms(after)} ms")
    if not after.reached:
        lines.append(
            "The target is not reached; this is the best that was found. Next: more calibration samples, or QAT."
        )
    lines.append(f"Written: {path}   (hbtool makertbin -c {path})")
    return "\n\n".join([*parts, "\n".join(lines)])


def _ms(trial: Any) -> str:
    return "--" if trial.latency_us is None else f"{trial.latency_us / 1000:.3f}"


def _trial(trial: Any) -> dict[str, Any]:
    return {
        "changes": [c.label for c in trial.changes],
        "cosine": trial.cosine,
        "metric": trial.metric,
        "latency_us": trial.latency_us,
        "reached": trial.reached,
    }


def load_metric(text: str) -> Callable[[Any], float]:
    """The user's function; its file is run, which is why it must be named on the command line."""
    import importlib.util

    from hbtool.errors import UsageError

    file, _, name = text.rpartition(":")
    path = Path(file)
    if not path.is_file() or not name.isidentifier():
        raise UsageError(f"--metric {text!r} names no function", hint="Write FILE.py:FUNCTION.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file", hint="Write FILE.py:FUNCTION.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{path} has no function {name!r}", hint="Write FILE.py:FUNCTION.")
    return function
