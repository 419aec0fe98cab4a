"""Runs the command line in this process and keeps what it printed."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

from hbtool.cli.main import run


@dataclass(frozen=True)
class Ran:
    """Exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def hbtool(*arguments: object) -> Ran:
    """Run `hbtool ARGUMENTS...`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(a) for a in arguments])
    return Ran(code, out.getvalue(), err.getvalue())
