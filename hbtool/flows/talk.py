"""How a flow tells what it is doing; the command line decides what is shown."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Steps(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, note: str = "") -> None:
        """`done` steps of the total are finished; `note` stands behind the label (a loss, a speed)."""


def _ignore(done: int, note: str = "") -> None:
    """A bar nobody sees."""


class Talk(Protocol):
    """Receives what a person may want to read while a flow runs."""

    def info(self, message: str) -> None:
        """One line of progress."""

    def warn(self, message: str) -> None:
        """Something that is legal but probably not meant."""

    def progress(self, label: str, total: int) -> contextlib.AbstractContextManager[Steps]:
        """A bar for a long loop; the yielded function takes the number of steps done."""


class Quiet:
    """Says nothing."""

    def info(self, message: str) -> None:
        """Ignore."""

    def warn(self, message: str) -> None:
        """Ignore."""

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Steps]:
        """Ignore."""
        yield _ignore
