"""`prepare` of the newer API generation: one call for tracing and eager mode."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from torch import nn

from hbtool.errors import UsageError
from hbtool.quantization.quantize import prepare_qat
from hbtool.quantization.quantize_fx import prepare_qat_fx


class PrepareMethod(Enum):
    """How the model is read; the tracing methods are one in hbtool."""

    JIT_STRIP = "jit_strip"
    JIT = "jit"
    SYMBOLIC = "symbolic"
    EAGER = "eager"


def prepare(
    model: nn.Module,
    example_inputs: Any = None,
    qconfig_setter: Any = None,
    method: PrepareMethod = PrepareMethod.JIT_STRIP,
) -> nn.Module:
    """A QAT copy of `model`.

    Args:
        model: float model.
        example_inputs: accepted for compatibility; the graph is traced symbolically.
        qconfig_setter: a qconfig for the whole model, a qconfig dictionary as `prepare_qat_fx` takes it, or None where
            the modules have `.qconfig` attributes.
        method: EAGER swaps modules where they stand; all others trace.

    Raises:
        UsageError: no march set, or a qconfig_setter of another kind.
    """
    if qconfig_setter is None or isinstance(qconfig_setter, Mapping):
        qconfig_dict = qconfig_setter
    elif hasattr(qconfig_setter, "activation"):
        qconfig_dict = {"": qconfig_setter}
    else:
        raise UsageError(
            f"qconfig_setter is a {type(qconfig_setter).__name__}.", hint="Pass a qconfig or a qconfig dictionary."
        )
    if method is PrepareMethod.EAGER:
        if qconfig_dict is not None:
            raise UsageError("eager mode reads .qconfig attributes.", hint="Set them and leave qconfig_setter out.")
        return prepare_qat(model)
    return prepare_qat_fx(model, qconfig_dict)
