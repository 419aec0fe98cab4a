"""`hbtool explain march`: what a key of config.yaml means."""

from __future__ import annotations

import click

from hbtool.cli.console import print_result


@click.command("explain")
@click.argument("key", required=False)
def command(key: str | None) -> None:
    """Say what KEY of config.yaml means: values, default, where it has an effect. Without KEY: list all keys.

    \b
    Examples:
      hbtool explain input_type_rt
      hbtool explain compiler_parameters.debug
      hbtool explain calibration_parameters
    """
    from hbtool.config import explain
    from hbtool.config.schema import SECTIONS

    print_result("\n\n".join(explain(name) for name in ([key] if key else SECTIONS)))
