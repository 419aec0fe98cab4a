"""`hbtool lint config.yaml`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result


@click.command("lint")
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-n", "--samples", type=click.IntRange(1), default=16, show_default=True, help="Samples to look at.")
@common_options
def command(config: Path, samples: int, as_json: bool, quiet: bool) -> int:
    """Look for the usual mistakes in calibration data and preprocessing.

    Constant, broken or repeated samples, wrong layout, colour order, 0..1 against 0..255, normalization done twice,
    data types that contradict folder or configuration. Exit code 1 where something was found (notes do not count).
    """
    from hbtool.config import load_config
    from hbtool.flows.lint_data import lint

    result = lint(load_config(config), ConsoleTalk(quiet), samples)
    wrong = any(r.level == "warning" for r in result.remarks)
    if as_json:
        print_json({"samples": result.samples, "remarks": [asdict(r) for r in result.remarks]})
    else:
        for r in result.remarks:
            print_result(f"{r.check}{'' if r.level == 'warning' else ' (note)'}: {r}")
        if not wrong:
            print_result(f"Nothing suspicious in {result.samples} samples.")
    return 1 if wrong else 0
