"""What every command shares: where talk goes, tables as plain text, JSON results, a log file."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hbtool.numerics.finite import finite


class ConsoleTalk:
    """Talk on stderr, and everything into a log file.

    Args:
        quiet: only warnings are shown.
        log: file that receives every line with its time; None for none.
    """

    def __init__(self, quiet: bool = False, log: Path | None = None) -> None:
        self.quiet = quiet
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._log = log
        self._lines: list[str] = []

    def info(self, message: str) -> None:
        """One line of progress."""
        self._write("INFO", message)
        if not self.quiet:
            self._console.print(message, markup=False)

    def detail(self, message: str) -> None:
        """Into the log only."""
        self._write("DEBUG", message)

    def failed(self, message: str) -> None:
        """A failure into the log; the terminal gets it at the end."""
        self._write("ERROR", message)

    def warn(self, message: str) -> None:
        """Something that is legal but probably not meant."""
        self._write("WARNING", message)
        self._console.print(f"warning: {message}", markup=False, style="yellow")

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[..., None]]:
        """A bar on a terminal; elsewhere nothing."""
        if self.quiet or not self._console.is_terminal:
            yield lambda done, note="": None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done, note="": bar.update(
                task, completed=done, description=f"{label}  {note}" if note else label
            )

    def record(self, text: str) -> None:
        """Into the log only (results that went to stdout)."""
        self._write("RESULT", text)

    def _write(self, level: str, message: str) -> None:
        if self._log is None:
            return
        with contextlib.suppress(OSError):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as stream:
                stamp = time.strftime("%Y-%m-%d %H:%M:%S")
                stream.writelines(f"{stamp} {level}: {line}\n" for line in message.splitlines() or [""])


def text_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as the mapper prints it: title, `=` row, header, `-` row, left-aligned columns."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(str(c).ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip()

    width = max(sum(widths) + 2 * (len(widths) - 1), len(title))
    return "\n".join([title, "=" * width, line(header), "-" * width, *(line(row) for row in rows)])


def shortened(name: str, limit: int = 50) -> str:
    """Names over `limit` characters keep their end."""
    return name if len(name) <= limit else f"...{name[-(limit - 3) :]}"


def shown(path: str | Path) -> str:
    """A path as the user would type it: from the working folder where it lies inside."""
    full, here = Path(path).absolute(), Path.cwd()
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(path)


def print_result(text: str) -> None:
    """A result, on stdout."""
    click.echo(text)


def print_json(value: Any) -> None:
    """A result for machines, on stdout."""
    json.dump(finite(value), sys.stdout, indent=2, sort_keys=True, default=str, allow_nan=False)
    sys.stdout.write("\n")


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json` and `--quiet`."""
    command = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)
    return click.option("-q", "--quiet", is_flag=True, help="Show warnings and results only.")(command)
