"""`hbtool convert -c training.yaml`."""

from __future__ import annotations

from pathlib import Path

import click

from hbtool.cli.calib import config_option, load, show, talk_of
from hbtool.cli.console import common_options


@click.command("convert")
@config_option
@common_options
def command(config: Path | None, as_json: bool, quiet: bool) -> None:
    """Convert the best trained (else the calibrated) model to fixed point, measure it, and compile it.

    Writes PREFIX_fixed_point.pt (TorchScript) and PREFIX.hbm (the artifact) into working_dir, and says how many integer
    codes the trained and the deployed model share.
    """
    loaded = load(config)
    from hbtool.flows.convert import convert

    show(convert(loaded, talk_of(loaded, "convert", quiet)), as_json)
