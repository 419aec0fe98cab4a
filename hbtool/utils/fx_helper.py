"""`wrap`: parts of a model that tracing must not look into."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from hbtool.errors import UsageError

WRAPPED_CLASSES: set[type] = set()
"""Module classes that stay one node in a traced model."""

SKIP_COMPILE: set[Any] = set()
"""Wrapped classes and functions that lie outside the compiled model: they run in float behind it."""


def _recording(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which while a model is traced records its call instead of running."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        found: list[fx.Proxy] = []
        fx.node.map_aggregate((args, kwargs), lambda a: found.append(a) if isinstance(a, fx.Proxy) else None)
        if not found:
            return function(*args, **kwargs)
        tracer = found[0].tracer
        if args and isinstance(args[0], nn.Module):
            # A method: the module itself becomes an operand.
            path = tracer.path_of_module(args[0])  # type: ignore[attr-defined]
            args = (tracer.create_proxy("get_attr", path, (), {}), *args[1:])
        return tracer.create_proxy("call_function", call, args, kwargs)

    return call


def _register(target: Any, skip_compile: bool) -> Any:
    made = target
    if isinstance(target, type) and issubclass(target, nn.Module):
        WRAPPED_CLASSES.add(target)
    elif isinstance(target, str):
        names = _caller_globals()
        if not callable(names.get(target)):
            raise UsageError(f"wrap: there is no function {target!r} here.", hint="Call wrap in the file that has it.")
        made = names[target] = _recording(names[target])
    elif callable(target):
        made = _recording(target)
        names = getattr(target, "__globals__", {})
        # Also where the result of wrap(function) is not used.
        name = getattr(target, "__name__", "")
        if names.get(name) is target:
            names[name] = made
    else:
        raise UsageError(f"wrap: {target!r} cannot be wrapped.", hint="Give a function, its name or a Module class.")
    if skip_compile:
        SKIP_COMPILE.add(made)
    return made


def _caller_globals() -> dict[str, Any]:
    """Names of the file that called into this one."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__") == __name__ and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_globals


def wrap(skip_compile: Any = False) -> Any:
    """Keep tracing out of a function, a function name, a method or a Module class.

    Used as `@wrap()`, `@wrap(skip_compile=True)` or, as older scripts do, `@wrap` and `wrap("name")`.

    Args:
        skip_compile: whether the part lies outside the compiled model: it and what follows it runs in float behind
            the fixed-point program; or the object itself (older form).
    """
    if isinstance(skip_compile, str) or callable(skip_compile):
        return _register(skip_compile, False)

    def decorate(target: Callable[..., Any]) -> Any:
        return _register(target, bool(skip_compile))

    return decorate


def skips_compile(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node of a traced model is marked as outside the compiled model."""
    if node.op == "call_module":
        return any(c in SKIP_COMPILE for c in type(modules[str(node.target)]).__mro__)
    return node.op == "call_function" and node.target in SKIP_COMPILE


class Tracer(fx.Tracer):
    """Name under which scripts reach `dynamic_block`; models are traced by `hbtool.quantization.tracing`."""

    @staticmethod
    @contextmanager
    def dynamic_block(owner: Any = None, name: str = "") -> Iterator[None]:
        """Marks statements whose number of runs may change; they are traced as they run with the given values."""
        yield
