"""`hbtool infer model.bin --input NAME=FILE`; `hbtool infer -c c.yaml --model-file X.onnx --image-file NODE FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result, text_table
from hbtool.cli.options import model_type_option, name_option, only_onnx, required
from hbtool.errors import UsageError

if TYPE_CHECKING:
    from hbtool.runtime.session import Backend


@click.command("infer")
@click.argument("artifact", type=click.Path(path_type=Path), required=False)
@click.option("-i", "--input", "inputs", multiple=True, metavar="[NAME=]FILE", help="Repeat per input.")
@click.option("-o", "--output-dir", type=click.Path(file_okay=False, path_type=Path), help="Where results are written.")
@click.option(
    "--backend",
    type=click.Choice(["host", "sim", "reference"]),
    default="host",
    show_default=True,
    help="At full speed, instruction by instruction, or by the operators' definitions: the same bits.",
)
@name_option
@click.option(
    "-c", "--config", type=click.Path(path_type=Path), help="Stage files: the config.yaml they were made with."
)
@click.option("--model-file", type=click.Path(path_type=Path), help="A stage file (.onnx) instead of ARTIFACT.")
@model_type_option
@click.option("--image-file", nargs=2, multiple=True, metavar="NODE FILE", help="Stage files: input and its file.")
@click.option("--input-layout", multiple=True, type=click.Choice(["NCHW", "NHWC"]), help="Stage files: layout of FILE.")
@common_options
def command(
    artifact: Path | None,
    inputs: tuple[str, ...],
    output_dir: Path | None,
    backend: Backend,
    name: str | None,
    config: Path | None,
    model_file: Path | None,
    model_type: str,
    image_file: tuple[tuple[str, str], ...],
    input_layout: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Run ARTIFACT on files, or dump every layer of a stage file.

    ARTIFACT takes .npy, .npz, images, or raw bytes in the runtime format (nv12 bytes for a camera). A stage file
    (--model-file original_float, optimized_float, calibrated or quantized ONNX, with --config) takes files as
    calibration does and writes one <layer>_float.bin per layer to --output-dir.

    \b
    Examples:
      hbtool infer model.bin --input photo.jpg
      hbtool infer model.bin --input image=frame.nv12 --input speed=speed.npy -o results
      hbtool infer -c config.yaml --model-file net_quantized_model.onnx --image-file data 0.rgb --output-dir layers
    """
    only_onnx(model_type)
    if model_file is None:
        if config is not None or image_file or input_layout:
            raise UsageError(
                "--config, --image-file and --input-layout belong to --model-file",
                hint="For an artifact: hbtool infer model.bin --input NAME=FILE.",
            )
        path = required(artifact, "there is neither ARTIFACT nor --model-file", "Name the .bin file.")
        _run_artifact(path, inputs, output_dir, backend, name, as_json, quiet)
        return
    if artifact is not None or inputs:
        raise UsageError("--model-file excludes ARTIFACT and --input", hint="Use --image-file NODE FILE.")
    settings = required(config, "--model-file needs --config", "It says how a file becomes the model's input.")
    folder = required(output_dir, "--model-file needs --output-dir", "One file per layer is written there.")
    _dump_layers(settings, model_file, image_file, folder, input_layout, as_json)


def _dump_layers(
    config: Path,
    model_file: Path,
    image_file: tuple[tuple[str, str], ...],
    folder: Path,
    layouts: tuple[str, ...],
    as_json: bool,
) -> None:
    from hbtool.config import load_config
    from hbtool.flows.layer_dump import dump_layers

    files = {node: Path(file) for node, file in image_file}
    dumps = dump_layers(load_config(config), model_file, files, folder, layouts)
    if as_json:
        print_json([{"layer": d.layer, "file": str(d.path), "shape": list(d.shape)} for d in dumps])
        return
    rows = [(d.layer, "x".join(map(str, d.shape)), d.path.name) for d in dumps]
    print_result(text_table(f"Layers of {model_file.name} in {folder}", ("Layer", "Shape", "File (float32)"), rows))


def _run_artifact(
    artifact: Path,
    inputs: tuple[str, ...],
    output_dir: Path | None,
    backend: Backend,
    name: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from hbtool.flows.infer import infer, read_feeds, save_outputs

    if not inputs:
        raise UsageError("there is no --input", hint="Write --input FILE, or --input NAME=FILE per input.")
    feeds = read_feeds(artifact, inputs, name)
    with ConsoleTalk(quiet).progress("running", len(feeds)) as progress:
        results = infer(artifact, feeds, backend, name)
        progress(len(feeds))
    files = save_outputs(results, output_dir) if output_dir is not None else []
    if as_json:
        samples = [{output: array.tolist() for output, array in outputs.items()} for outputs in results]
        print_json({"files": [str(f) for f in files], "samples": samples})
        return
    rows = [_row(i, output, a) for i, outputs in enumerate(results) for output, a in outputs.items() if a.size]
    print_result(text_table("Outputs", ("Sample", "Output", "Shape", "Type", "Min", "Max", "Argmax"), rows))
    for file in files:
        print_result(f"wrote {file}")


def _row(index: int, output: str, a: Any) -> tuple[str, ...]:
    shape = "x".join(map(str, a.shape))
    return str(index), output, shape, str(a.dtype), f"{a.min():.6g}", f"{a.max():.6g}", str(int(a.argmax()))
