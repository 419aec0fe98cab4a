"""`hbtool qat -c training.yaml [--resume]`, alone or under torchrun."""

from __future__ import annotations

from pathlib import Path

import click

from hbtool.cli.calib import config_option, load, show, talk_of
from hbtool.cli.console import common_options


@click.command("qat")
@config_option
@click.option("--resume", is_flag=True, help="Go on after the last finished epoch.")
@common_options
def command(config: Path | None, resume: bool, as_json: bool, quiet: bool) -> None:
    """Train a PyTorch model with fake quantizers, starting from its calibrated scales.

    Calibrates first if working_dir holds no fitting calib.safetensors. Writes qat_last.safetensors after every epoch
    and qat_best.safetensors where the metric improved; at the end a table of the float, calibrated, QAT and fixed-point
    metric.

    Several processes: torchrun --nproc-per-node=N -m hbtool qat -c training.yaml. The learning rate is multiplied with
    their number, because the global batch is.
    """
    loaded = load(config)
    from hbtool.flows.qat import qat

    show(qat(loaded, talk_of(loaded, "qat", quiet), resume), as_json)
