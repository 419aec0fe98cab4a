"""`hbtool modify model.bin [-r NAME] [-a TYPE] [-o OUT]`."""

from __future__ import annotations

from pathlib import Path

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result, shown, text_table
from hbtool.cli.tables import removed_text, scale_lines


@click.command("modify")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("-r", "--remove", "names", multiple=True, metavar="NAME", help="Remove this node; repeat.")
@click.option(
    "-a",
    "--all",
    "types",
    multiple=True,
    metavar="TYPE",
    help="Remove every node of this type that touches an input or output; repeat.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The new file (default: NAME_modified.bin).")
@common_options
def command(
    artifact: Path, names: tuple[str, ...], types: tuple[str, ...], output: Path | None, as_json: bool, quiet: bool
) -> None:
    """List the head and tail nodes of ARTIFACT that can be removed, or remove some.

    Removable are Quantize, Transpose, Cast and Reshape at an input, Dequantize, Transpose, Cast, Reshape and Softmax at
    an output. The application then does their work; what it has to do is printed, with all scales.

    \b
    Examples:
      hbtool modify net.bin
      hbtool modify net.bin -a Dequantize -o bare.bin
      hbtool modify net.bin -r softmax -r z_HzDequantize
    """
    from hbtool.flows.info import formulas
    from hbtool.flows.modify import modify, removable_nodes

    if not names and not types:
        found = removable_nodes(artifact)
        if as_json:
            print_json([n.as_json() for n in found])
            return
        rows = [
            (n.name, n.type, "input" if n.side == "head" else "output", n.value, f"{n.in_dtype} -> {n.out_dtype}")
            for n in found
        ]
        print_result(text_table("Nodes that can be removed now", ("Node", "Type", "Side", "At", "Data"), rows))
        return
    result = modify(artifact, names, types, output, ConsoleTalk(quiet))
    if as_json:
        print_json({"artifact": str(result.path), "deleted_nodes": [n.as_json() for n in result.all_removed]})
        return
    lines = [removed_text(result.all_removed, formulas(result.all_removed))]
    for node in result.all_removed:
        lines += scale_lines(node)
    print_result("\n".join([*lines, f"wrote {shown(result.path)}"]))
