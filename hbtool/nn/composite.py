"""Layers that the BPU runs as several operators: tracing looks into them, so that each one gets its own scale."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


class Composite(nn.Module):
    """A layer whose forward is written with modules that quantize by themselves."""


COMPOSITES: dict[type, Callable[..., Composite]] = {}
"""Torch class -> makes its composite form, with the same parameters."""


def composite_of(torch_class: type) -> Callable[[type[Composite]], type[Composite]]:
    """Class decorator: the composite stands for `torch_class` and builds itself with `from_torch`."""

    def register(cls: type[Composite]) -> type[Composite]:
        COMPOSITES[torch_class] = cls.from_torch  # type: ignore[attr-defined]
        return cls

    return register


def expand(module: nn.Module) -> Composite | None:
    """The composite form of a torch module, None if it has none."""
    # The registry fills when the layers are defined.
    from hbtool.nn import attention, recurrent  # noqa: F401

    build = COMPOSITES.get(type(module))
    if build is None:
        return None
    made = build(module)
    made.train(module.training)
    if hasattr(module, "qconfig"):
        made.qconfig = module.qconfig
    return made
