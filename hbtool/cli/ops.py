"""`hbtool ops --march bayes-e [OP ...]`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from hbtool.cli.console import common_options, print_json, print_result, text_table


@click.command("ops")
@click.argument("operators", nargs=-1)
@click.option("--march", default="bayes-e", show_default=True, help="The march, or a target file.")
@common_options
def command(operators: tuple[str, ...], march: str, as_json: bool, quiet: bool) -> None:
    """List what the BPU of a march takes: all operators, or the named OPERATORS with their conditions.

    Operators that are not listed run on the CPU in float.
    """
    from hbtool.errors import UsageError
    from hbtool.flows.operator_list import operator_list

    rows = operator_list(march, operators)
    if operators and not rows:
        known = ", ".join(r.op_type for r in operator_list(march))
        raise UsageError(
            f"no operator of that name has a BPU form: {', '.join(operators)}",
            hint=f"They run on the CPU. Known: {known}.",
        )
    if as_json:
        print_json([asdict(r) for r in rows])
        return
    if operators:
        print_result("\n\n".join(_details(r) for r in rows))
        return
    cells = [(r.op_type, r.device, r.kind, r.int16, str(len(r.conditions))) for r in rows]
    print_result(text_table(f"Operators of {march}", ("Operator", "ON", "Kind", "int16", "Conditions"), cells))
    print_result("\nThe conditions of an operator: hbtool ops --march MARCH OPERATOR")


def _details(row: Any) -> str:
    lines = [f"{row.op_type}: {row.device}, {row.kind}, int16: {row.int16}", f"  computes: {row.arithmetic or '--'}"]
    return "\n".join([*lines, *(f"  needs {c}" for c in row.conditions)])
