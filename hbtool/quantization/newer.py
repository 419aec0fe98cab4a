"""`prepare` of the newer API generation: one call for tracing and eager mode, with a report of what to look at."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.errors import UsageError
from hbtool.quantization.observed import ObservedGraphModule
from hbtool.quantization.qconfig_setter import QconfigSetter
from hbtool.quantization.quantize import prepare_qat
from hbtool.quantization.quantize_fx import fuse_fx, prepare_qat_fx


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
    report_dir: str | Path | None = None,
) -> nn.Module:
    """A QAT copy of `model`.

    Args:
        model: float model.
        example_inputs: a tensor or a tuple of them, for the report; the graph itself is traced symbolically.
        qconfig_setter: a `QconfigSetter`, a qconfig for the whole model, a qconfig dictionary as `prepare_qat_fx`
            takes it, or None where the modules have `.qconfig` attributes.
        method: EAGER swaps modules where they stand; all others trace.
        report_dir: where `model_check_result.txt` (unfused operators, call counts, qconfigs; needs example_inputs)
            and `fx_graph.txt` go; None writes nothing.

    Raises:
        UsageError: no march set, or a qconfig_setter of another kind.
    """
    if method is PrepareMethod.EAGER:
        if qconfig_setter is not None:
            raise UsageError("eager mode reads .qconfig attributes.", hint="Set them and leave qconfig_setter out.")
        return prepare_qat(model)
    source: nn.Module = model
    qconfig_dict: Mapping[Any, Any] | None
    if isinstance(qconfig_setter, QconfigSetter):
        source = fuse_fx(model)
        qconfig_dict = qconfig_setter.qconfig_dict(source)
    elif qconfig_setter is None or isinstance(qconfig_setter, Mapping):
        qconfig_dict = qconfig_setter
    elif hasattr(qconfig_setter, "activation"):
        qconfig_dict = {"": qconfig_setter}
    else:
        raise UsageError(
            f"qconfig_setter is a {type(qconfig_setter).__name__}.",
            hint="Pass a QconfigSetter, a qconfig or a qconfig dictionary.",
        )
    made = prepare_qat_fx(source, qconfig_dict)
    if report_dir is not None:
        _report(model, made, example_inputs, Path(report_dir))
    return made


def _report(model: nn.Module, prepared: ObservedGraphModule, example_inputs: Any, folder: Path) -> None:
    from hbtool.utils import quant_profiler as tools

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fx_graph.txt").write_text(f"{prepared.graph}\n\n{prepared.code}")
    if example_inputs is None:
        return
    args = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    with torch.no_grad():
        unfused = tools.check_unfused_operations(model, args, False)
        counts = tools.get_module_called_count(model, args, print_tabulate=False)
        qconfigs = tools.check_qconfig(prepared, args)
    lines = ["unfused operators:", *(f"  {' -> '.join(names)}" for names in unfused), "", "module calls:"]
    lines += [f"  {name}: {count}" for name, count in counts.items() if count != 1]
    lines += ["", "qconfigs to look at:", *(f"  {line}" for line in qconfigs), "", "int8 and int16 by the BPU's rules:"]
    lines += [f"  {name}: {why}" for name, why in prepared.hb.widths.items()]
    (folder / "model_check_result.txt").write_text("\n".join(lines) + "\n")


def load_calib_state_dict(qat_model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load the state of a calibrated model of the same network.

    Raises:
        UsageError: keys are missing or left over (names them).
    """
    missing, unexpected = qat_model.load_state_dict(dict(state_dict), strict=False)
    if missing or unexpected:
        raise UsageError(
            f"the state is of another network: missing {', '.join(missing[:5]) or 'nothing'}, "
            f"left over {', '.join(unexpected[:5]) or 'nothing'}.",
            where="load_calib_state_dict",
            hint="Prepare the same float model for calibration and for QAT.",
        )
