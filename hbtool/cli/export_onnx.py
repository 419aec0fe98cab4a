"""`hbtool export-onnx -c training.yaml --stage qat`."""

from __future__ import annotations

from pathlib import Path

import click

from hbtool.cli.calib import config_option, load, show, talk_of
from hbtool.cli.console import common_options


@click.command("export-onnx")
@config_option
@click.option(
    "--stage",
    type=click.Choice(["float", "calib", "qat", "quantized"]),
    default="qat",
    show_default=True,
    help="float operators; calibrated or trained with Q/DQ; integer operators.",
)
@common_options
def command(config: Path | None, stage: str, as_json: bool, quiet: bool) -> None:
    """Write PREFIX_STAGE.onnx into working_dir.

    The files of calib and qat are standard ONNX with QuantizeLinear and DequantizeLinear: hbtool makertbin reads them
    with calibration_type: load, stock onnxruntime runs them. The file of quantized holds the integers of the
    fixed-point model.
    """
    loaded = load(config)
    from hbtool.flows.export_stage import export_stage

    show(export_stage(loaded, stage, talk_of(loaded, "export", quiet)), as_json)  # type: ignore[arg-type]
