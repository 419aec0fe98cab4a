"""`hbtool pack a.bin b.bin -o all.bin`."""

from __future__ import annotations

from pathlib import Path

import click

from hbtool.cli.console import common_options, print_json, print_result


@click.command("pack")
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The packed file.")
@common_options
def command(artifacts: tuple[Path, ...], output: Path, as_json: bool, quiet: bool) -> None:
    """Put several ARTIFACTS into one file; the runtime then chooses a model by its name.

    Files that are packed already are refused.

    \b
    Examples:
      hbtool pack detect.bin classify.bin -o both.bin
    """
    from hbtool.flows.pack import pack_artifacts

    names = pack_artifacts(artifacts, output)
    if as_json:
        print_json({"file": str(output), "models": list(names)})
        return
    print_result(f"wrote {output} ({output.stat().st_size} bytes) with {len(names)} models: {', '.join(names)}")
