"""The target that a command line names, in any spelling a configuration may use."""

from __future__ import annotations

from hbtool.config.marches import parse_march
from hbtool.config.values import BadValueError
from hbtool.errors import UsageError
from hbtool.target.target import Target
from hbtool.target.target import load as load_target


def named_target(march: str) -> Target:
    """The target of a march, a board's name (X5), or a target file.

    Raises:
        UsageError: there is no such march. ConfigError: a target file cannot be used.
    """
    try:
        return load_target(parse_march(march))
    except BadValueError as error:
        raise UsageError(f"--march: {error.message}", hint=error.hint) from None
