"""`hbtool infer model.bin --input NAME=FILE`."""

from __future__ import annotations

from pathlib import Path

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result, text_table


@click.command("infer")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("-i", "--input", "inputs", multiple=True, required=True, metavar="[NAME=]FILE", help="Repeat per input.")
@click.option("-o", "--output-dir", type=click.Path(file_okay=False, path_type=Path), help="Write outputs as .npz.")
@click.option("--backend", type=click.Choice(["host", "sim", "reference"]), default="host", show_default=True)
@common_options
def command(
    artifact: Path, inputs: tuple[str, ...], output_dir: Path | None, backend: str, as_json: bool, quiet: bool
) -> None:
    """Run ARTIFACT on files: .npy, .npz, images, raw bytes in the runtime format (nv12 bytes for a camera)."""
    from hbtool.flows.infer import infer, read_feeds, save_outputs

    talk = ConsoleTalk(quiet)
    feeds = read_feeds(artifact, inputs)
    with talk.progress("running", len(feeds)):
        results = infer(artifact, feeds, backend)  # type: ignore[arg-type]
    files = save_outputs(results, output_dir) if output_dir is not None else []
    if as_json:
        print_json(
            {
                "files": [str(f) for f in files],
                "samples": [{name: array.tolist() for name, array in outputs.items()} for outputs in results],
            }
        )
        return
    rows = [
        (
            str(i),
            name,
            "x".join(map(str, a.shape)),
            str(a.dtype),
            f"{a.min():.6g}",
            f"{a.max():.6g}",
            str(int(a.argmax())),
        )
        for i, outputs in enumerate(results)
        for name, a in outputs.items()
        if a.size
    ]
    print_result(text_table("Outputs", ("Sample", "Output", "Shape", "Type", "Min", "Max", "Argmax"), rows))
    for file in files:
        print_result(f"wrote {file}")
