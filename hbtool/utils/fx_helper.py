"""`wrap`: parts of a model that tracing must not look into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from hbtool.errors import UsageError

WRAPPED_CLASSES: set[type] = set()
"""Module classes that stay one node in a traced model."""

SKIP_COMPILE: set[Any] = set()
"""Wrapped parts that the user marked as outside the compiled model."""


def _register(target: Any, skip_compile: bool) -> Any:
    if isinstance(target, type) and issubclass(target, nn.Module):
        WRAPPED_CLASSES.add(target)
    elif isinstance(target, str) or callable(target):
        fx.wrap(target)
    else:
        raise UsageError(f"wrap: {target!r} cannot be wrapped.", hint="Give a function, its name or a Module class.")
    if skip_compile:
        SKIP_COMPILE.add(target)
    return target


def wrap(skip_compile: Any = False) -> Any:
    """Keep tracing out of a function, a function name or a Module class.

    Used as `@wrap()`, `@wrap(skip_compile=True)` or, as older scripts do, `@wrap` and `wrap("name")`.

    Args:
        skip_compile: whether the part lies outside the compiled model; or the object itself (older form).
    """
    if isinstance(skip_compile, str) or callable(skip_compile):
        return _register(skip_compile, False)

    def decorate(target: Callable[..., Any]) -> Any:
        return _register(target, bool(skip_compile))

    return decorate
