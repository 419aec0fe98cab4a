"""`hbtool calib -c training.yaml`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result, shown, text_table
from hbtool.cli.options import required

if TYPE_CHECKING:
    from hbtool.config.training_loader import LoadedTraining
    from hbtool.flows.training_results import StageResult

config_option = click.option(
    "-c", "--config", type=click.Path(dir_okay=False, path_type=Path), help="The YAML of the torch commands."
)


@click.command("calib")
@config_option
@common_options
def command(config: Path | None, as_json: bool, quiet: bool) -> None:
    """Observe the ranges of a PyTorch model on calibration data, and measure what that costs.

    Writes calib.safetensors (scales), metrics.json and run_calib.json into working_dir. With torchrun the data are
    shared out and all processes get the same scales.
    """
    loaded = load(config)
    from hbtool.flows.calib import calib

    show(calib(loaded, talk_of(loaded, "calib", quiet)), as_json)


def load(config: Path | None) -> LoadedTraining:
    """The configuration a torch command was given."""
    path = required(config, "there is no --config", "Write -c training.yaml.")
    from hbtool.config.training_loader import load_training_config

    return load_training_config(path)


def talk_of(loaded: LoadedTraining, name: str, quiet: bool) -> ConsoleTalk:
    """Talk of the first process; the others of torchrun only warn."""
    first = os.environ.get("RANK", "0") == "0"
    return ConsoleTalk(quiet or not first, loaded.working_dir / f"hbtool_{name}.log" if first else None)


def show(result: StageResult | None, as_json: bool) -> None:
    """The result on stdout; nothing in processes that have none."""
    if result is None:
        return
    if as_json:
        facts: dict[str, Any] = {
            "command": result.command,
            "metrics": dict(result.metrics),
            "files": {k: str(v) for k, v in result.files.items()},
            **result.facts,
        }
        print_json(facts)
        return
    parts = []
    if result.table():
        parts.append(text_table("Metric on the validation data", ("stage", "metric", "to float"), result.table()))
    parts += [*result.notes, "\n".join(f"{role}: {shown(path)}" for role, path in result.files.items())]
    print_result("\n\n".join(parts))
