"""`hbtool init net.onnx`, `hbtool init -f -m net.onnx --march nash-e` (hb_config_generator)."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbtool.cli.console import common_options, print_json, print_result, shown
from hbtool.cli.options import only_onnx
from hbtool.errors import UsageError

if TYPE_CHECKING:
    from hbtool.config.template import Extent


@click.command("init")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("-m", "--model", "named_model", type=click.Path(path_type=Path), help="As MODEL.")
@click.option("-p", "--prototxt", type=click.Path(path_type=Path), help="Caffe only.")
@click.option("--march", default="bayes-e", show_default=True, help="The march to compile for.")
@click.option("-s", "--simple", is_flag=True, help="Needed keys only, to simple_compile_config.yaml here.")
@click.option("-f", "--full", is_flag=True, help="Every key with its default, to full_compile_config.yaml here.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write (default: config.yaml beside the model).",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@common_options
def command(
    model: Path | None,
    named_model: Path | None,
    prototxt: Path | None,
    march: str,
    simple: bool,
    full: bool,
    output: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a commented config.yaml for MODEL, filled in as far as the model tells.

    Without MODEL, --simple and --full write a template for one 1x3x224x224 input.

    \b
    Examples:
      hbtool init net.onnx --march bayes-e
      hbtool init --full -m net.onnx --march nash-e
    """
    from hbtool.flows.init_config import init_config

    only_onnx("onnx", prototxt)
    if simple and full:
        raise UsageError("--simple excludes --full", hint="Give one of them.")
    if model is not None and named_model is not None and model != named_model:
        raise UsageError(f"two models are named: {model} and {named_model}", hint="Name one.")
    file = model if model is not None else named_model
    if file is None and not (simple or full):
        raise UsageError("there is no MODEL", hint="Write hbtool init net.onnx, or --simple or --full for a template.")
    extent: Extent = "simple" if simple else "full" if full else "usual"
    if extent != "usual" and output is None:
        output = Path(f"{extent}_compile_config.yaml")
    written = init_config(file, march, output, force=force, extent=extent)
    if as_json:
        print_json({"config": str(written.path), "inputs": list(written.inputs)})
        return
    file_name = shlex.quote(shown(written.path))
    print_result(
        f"wrote {shown(written.path)} for {', '.join(written.inputs)}\n"
        "Next: look at the input types and cal_data_dir, put samples there, then\n"
        f"      hbtool checker -c {file_name}     (where every node runs; needs no data)\n"
        f"      hbtool makertbin -c {file_name}"
    )
