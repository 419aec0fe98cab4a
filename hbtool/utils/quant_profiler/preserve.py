"""`set_preserve_qat_mode`: keep chosen modules in QAT form when the model is converted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from hbtool.errors import UsageError
from hbtool.quantization.fixed_point import QuantizedGraphModule

_log = logging.getLogger(__name__)


def set_preserve_qat_mode(
    model: nn.Module, prefixes: Sequence[str] = (), types: Sequence[type] = (), value: bool = True
) -> None:
    """Mark modules that `convert_fx` leaves in QAT form: float operators between the roundings of training.

    Converting with and without a module marked shows what its integers cost. On a float model mark the convolution of
    what is going to be fused; on a prepared model the fused module.

    Args:
        model: float or prepared model, changed in place; the marks go along into prepare and convert.
        prefixes: modules at or below one of these paths; all where neither prefixes nor types are given.
        types: modules of one of these types.
        value: False takes the mark away.

    Raises:
        UsageError: the model is converted already, or nothing matches.
    """
    if isinstance(model, QuantizedGraphModule):
        raise UsageError(
            "the model is converted already.", where="set_preserve_qat_mode", hint="Mark the QAT model, then convert."
        )
    chosen = [
        path
        for path, module in model.named_modules()
        if path
        and (not prefixes or any(path == p or path.startswith(f"{p}.") for p in prefixes))
        and (not types or isinstance(module, tuple(types)))
    ]
    if not chosen:
        raise UsageError(
            f"no module matches prefixes {list(prefixes)} and types {[t.__name__ for t in types]}.",
            where="set_preserve_qat_mode",
            hint="Use paths as model.named_modules() gives them.",
        )
    for path in chosen:
        model.get_submodule(path).preserve_qat_mode = value  # type: ignore[assignment]
    _log.info("preserve_qat_mode = %s: %s", value, ", ".join(chosen))
