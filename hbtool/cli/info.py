"""`hbtool info model.bin`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hbtool.cli.console import common_options, print_json, print_result, text_table
from hbtool.cli.tables import removed_text, scale_lines


@click.command("info")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("-m", "-n", "--name", metavar="NAME", help="Which model of a packed file.")
@common_options
def command(artifact: Path, name: str | None, as_json: bool, quiet: bool) -> None:
    """Print what ARTIFACT was built from, what it takes and gives, and what was removed from it.

    Of a packed file all models are printed, or the one that --name chooses. Of an .onnx file: its opset, inputs and
    outputs.

    \b
    Examples:
      hbtool info model_output/net.bin
      hbtool info packed.bin -m net
      hbtool info model_output/net_quantized_model.onnx
    """
    from hbtool.flows.info import info, names_in, onnx_info

    if artifact.suffix.lower() == ".onnx":
        told = onnx_info(artifact)
        if as_json:
            print_json(asdict(told))
            return
        lines = [f"  {key:<10} : {value}" for key, value in told.facts]
        tables = [
            text_table(title, ("NAME", "DATA_TYPE", "SHAPE"), rows)
            for title, rows in (("Inputs", told.inputs), ("Outputs", told.outputs))
        ]
        print_result("\n\n".join(["\n".join(lines), *tables]))
        return

    models = [info(artifact, each) for each in ((name,) if name is not None else names_in(artifact))]
    if as_json:
        print_json([_as_json(model) for model in models])
        return
    print_result("\n\n".join(_text(model) for model in models))


def _as_json(model: Any) -> dict[str, Any]:
    return {
        "name": model.name,
        "packed_with": list(model.packed_with),
        **{title: dict(pairs) for title, pairs in model.groups},
        "inputs": [_arg_json(a) for a in model.inputs],
        "outputs": [_arg_json(a) for a in model.outputs],
        "deleted_nodes": [n.as_json() for n in model.removed],
    }


def _arg_json(arg: Any) -> dict[str, Any]:
    q = arg.quantization
    meaning = (
        None if q is None else {"type": q.type.name, "scales": q.scales, "zero_point": q.zero_point, "axis": q.axis}
    )
    return {"name": arg.name, "type": arg.type, "shape": arg.shape, "quantization": meaning}


def _text(model: Any) -> str:
    from hbtool.flows.info import formulas

    lines = ["=" * 60, f"Model: {model.name}", "=" * 60]
    for title, pairs in model.groups:
        lines += ["", f"[{title}]", *(f"  {key:<24} : {value}" for key, value in pairs)]
    for title, args in (("Runtime inputs", model.inputs), ("Runtime outputs", model.outputs)):
        rows = [(a.name, a.type, "x".join(map(str, a.shape)), _meaning(a.quantization)) for a in args]
        lines += ["", text_table(title, ("Name", "Type", "Shape", "Integers mean"), rows)]
    if model.removed:
        lines += ["", removed_text(model.removed, formulas(model.removed))]
        for node in model.removed:
            lines += scale_lines(node)
    return "\n".join(lines)


def _meaning(q: Any) -> str:
    if q is None:
        return "--"
    if q.axis is None:
        shift = f"(x - {q.zero_point})" if q.zero_point else "x"
        return f"{shift} * {q.scales[0]:.9g}"
    return f"x * scale[i], i along axis {q.axis} ({len(q.scales)} scales)"
