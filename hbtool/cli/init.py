"""`hbtool init net.onnx`."""

from __future__ import annotations

from pathlib import Path

import click

from hbtool.cli.console import common_options, print_json, print_result


@click.command("init")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--march", default="bayes-e", show_default=True, help="The march to compile for.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write (default: config.yaml beside the model).",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@common_options
def command(model: Path, march: str, output: Path | None, force: bool, as_json: bool, quiet: bool) -> None:
    """Write a commented config.yaml for MODEL, filled in as far as the model tells."""
    from hbtool.flows.init_config import init_config

    written = init_config(model, march, output, force=force)
    if as_json:
        print_json({"config": str(written.path), "inputs": list(written.inputs)})
        return
    print_result(
        f"wrote {written.path} for {', '.join(written.inputs)}\n"
        "Next: look at the input types and cal_data_dir, put samples there, then\n"
        f"      hbtool checker -c {written.path}     (where every node runs; needs no data)\n"
        f"      hbtool makertbin -c {written.path}"
    )
