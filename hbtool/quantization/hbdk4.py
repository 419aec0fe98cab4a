"""The newer generation's road to an artifact: export, convert, compile; hbtool's graphs and compiler behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from torch import Tensor, nn

from hbtool.errors import UsageError
from hbtool.march import March, require_march
from hbtool.quantization.compile import compile_model
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.quantization.observed import ObservedGraphModule
from hbtool.quantization.quantize_fx import convert_fx
from hbtool.utils.onnx_helper import export_to_onnx


@dataclass
class Exported:
    """A QAT model with the inputs it is for.

    Attributes:
        model: the QAT model.
        args: example inputs.
        name: name of the function.
        input_names, output_names: names in files, None for the model's own.
    """

    model: ObservedGraphModule
    args: tuple[Tensor, ...]
    name: str
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None


@dataclass
class Converted:
    """A fixed-point model for one march."""

    module: QuantizedGraphModule
    source: Exported
    march: March


def _args(example_inputs: Any) -> tuple[Tensor, ...]:
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)


def export(
    model: nn.Module,
    example_inputs: Any,
    name: str = "forward",
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    input_descs: Any = None,
    output_descs: Any = None,
    native_pytree: bool = True,
) -> Exported:
    """A calibrated or QAT model, ready to convert; call `eval()` and set VALIDATION first.

    Args:
        model: result of `prepare` or `prepare_qat_fx`.
        example_inputs: a tensor or a tuple of tensors.
        name: name of the compiled function.
        input_names: names of the inputs.
        output_names: names of the outputs.
        input_descs: accepted for compatibility.
        output_descs: accepted for compatibility.
        native_pytree: accepted for compatibility.

    Raises:
        UsageError: the model is a float model (nothing would be quantized).
    """
    if not isinstance(model, ObservedGraphModule):
        raise UsageError(
            f"export got a {type(model).__name__} that was not prepared.", hint="Pass the result of prepare(...)."
        )
    return Exported(model, _args(example_inputs), name, input_names, output_names)


def pre_export(model: nn.Module, inplace: bool = False) -> nn.Module:
    """The model as `export` sees it; hbtool exports QAT models as they are, so this is the model itself."""
    return model


def convert(bc: Exported, march: March | str | None = None) -> Converted:
    """The fixed-point model of an exported one."""
    chosen = require_march(march)
    if chosen.value != bc.model.hb.march:
        raise UsageError(
            f"the model was prepared for {bc.model.hb.march}, march is {chosen.value}.",
            hint="Call set_march before prepare.",
        )
    return Converted(convert_fx(bc.model), bc, chosen)


def save(bc: Exported | Converted, path: str | Path) -> None:
    """Write an exported model as Q/DQ ONNX, a converted one as its INTEGER graph (ONNX, domain `hbtool`)."""
    target = Path(path)
    if isinstance(bc, Exported):
        export_to_onnx(bc.model, bc.args, target, input_names=bc.input_names, output_names=bc.output_names)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(ir.to_proto(bc.module.integer_graph(*bc.source.args)), target)


def compile(
    bc: Converted,
    path: str | Path,
    march: March | str | None = None,
    opt: int = 2,
    jobs: int = 4,
    max_time_per_fc: float = 0.0,
    debug: bool = False,
    progress_bar: bool = False,
    advice: float = 0.0,
    balance: int = 100,
    input_no_padding: bool = False,
    output_no_padding: bool = False,
) -> int:
    """Write the artifact (hbtool's own format); returns 0. See `compile_model`."""
    if not isinstance(bc, Converted):
        raise UsageError("compile needs a converted model.", hint="Call convert(exported, march) first.")
    return compile_model(bc.module, bc.source.args, path, march or bc.march, bc.source.name, opt=opt, jobs=jobs)
