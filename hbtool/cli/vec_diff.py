"""`hbtool vec-diff LEFT RIGHT -o OUT.csv`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result, shortened, text_table


@click.command("vec-diff")
@click.argument("left", type=click.Path(path_type=Path))
@click.argument("right", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write the table as CSV.")
@common_options
def command(left: Path, right: Path, output: Path | None, as_json: bool, quiet: bool) -> None:
    """Compare two folders of layer outputs, file by file, worst first.

    \b
    The folders come from hbtool infer:
      hbtool infer -c c.yaml --model-file out/net_optimized_float_model.onnx --image-file data 0.rgb --output-dir a
      hbtool infer -c c.yaml --model-file out/net_quantized_model.onnx --image-file data 0.rgb --output-dir b
      hbtool vec-diff a b -o layers.csv
    """
    from hbtool.flows.vec_diff import vec_diff, write_csv

    rows, lonely = vec_diff(left, right)
    if output is not None:
        write_csv(rows, output)
    if as_json:
        print_json({"files": [asdict(r) for r in rows], "only_in_one": list(lonely)})
        return
    if lonely:
        ConsoleTalk(quiet).warn(f"{len(lonely)} files are in one folder only: {', '.join(lonely[:6])}")
    cells = [
        (shortened(r.left.name), f"{r.cosine:.6f}", f"{r.relative:.6g}", f"{r.largest:.6g}", f"{r.mse:.6g}")
        for r in sorted(rows, key=lambda r: r.cosine)
    ]
    header = ("File", "Cosine Similarity", "Relative Euclidean Distance", "Max Absolute Error", "Mean Square Error")
    print_result(text_table(f"{left} against {right}", header, cells))
    if output is not None:
        print_result(f"wrote {output}")
