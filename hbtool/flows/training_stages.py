"""Steps that the torch commands share: qconfigs from the YAML, preparing, calibrating, measuring."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hbtool.config.training import ModuleQuantization, TorchQuantization
from hbtool.config.training_loader import LoadedTraining
from hbtool.errors import ConfigError, DataError, TrainingError
from hbtool.flows.talk import Talk
from hbtool.flows.training_setup import Processes, build_loader, load_factory, split_batch
from hbtool.qat_mode import get_qat_mode, set_qat_mode
from hbtool.quantization.distributed import all_sum
from hbtool.quantization.observed import ObservedGraphModule
from hbtool.quantization.qconfig import QConfig, get_default_qconfig
from hbtool.quantization.quantize_fx import prepare_qat_fx

Metric = Callable[[Any, Any], tuple[Any, Any]]

OBSERVERS = ("min_max", "mse", "percentile")
"""What `observer: default` tries."""


def qconfig_dict(given: TorchQuantization, calibrating: bool) -> dict[str, Any]:
    """The qconfig dictionary of calibration, or of QAT."""
    overall = ModuleQuantization(weight_bits=given.weight_bits, weight_per_channel=given.weight_per_channel)
    names: dict[str, Any] = {
        name: _qconfig(given, overall.model_copy(update={"output": "int32"}), calibrating)
        for name in given.output_layers
    }
    for name, special in given.module_name.items():
        changed = {k: getattr(special, k) for k in special.model_fields_set}
        names[name] = _qconfig(given, overall.model_copy(update=changed), calibrating)
    return {"": _qconfig(given, overall, calibrating), "module_name": names}


def _qconfig(given: TorchQuantization, module: ModuleQuantization, calibrating: bool) -> QConfig | None:
    if not module.quantize:
        return None
    scheme = torch.per_channel_symmetric if module.weight_per_channel else torch.per_tensor_symmetric
    weights: dict[str, Any] = {
        "dtype": f"qint{module.weight_bits}",
        "qscheme": scheme,
        "ch_axis": 0 if module.weight_per_channel else -1,
        "averaging_constant": 1.0 if calibrating else given.weight_averaging_constant,
    }
    if given.weight_narrow_range:
        weights["quant_min"] = 1 - (1 << (module.weight_bits - 1))
    if module.output == "int32":
        return get_default_qconfig(None, activation_observer=None, weight_qkwargs=weights)
    activations: dict[str, Any] = {
        "dtype": "qint16" if module.output == "int16" else "qint8",
        "averaging_constant": given.calibration_averaging_constant
        if calibrating
        else given.activation_averaging_constant,
    }
    if given.asymmetric and given.fake_quant == "fake_quant":
        activations["qscheme"] = torch.per_tensor_affine
    if calibrating:
        observer = module.observer or (OBSERVERS[0] if given.observer == "default" else given.observer)
        return get_default_qconfig(activation_observer=observer, activation_qkwargs=activations, weight_qkwargs=weights)
    if given.fake_quant == "lsq":
        activations = {"dtype": activations["dtype"], "use_grad_scaling": True}
    return get_default_qconfig(given.fake_quant, activation_qkwargs=activations, weight_qkwargs=weights)


def prepare(
    loaded: LoadedTraining, model: nn.Module, calibrating: bool, device: torch.device, observer: str | None = None
) -> ObservedGraphModule:
    """The prepared model on its device; `observer` stands in for the YAML's.

    Raises:
        HbError: names of the YAML match no module, or the model cannot be quantized so.
    """
    given = loaded.config.quantization_parameters
    if observer is not None:
        given = given.model_copy(update={"observer": observer})
    hybrid = {"module_name": list(given.hybrid_modules)} if given.hybrid else None
    before = get_qat_mode()
    set_qat_mode(given.qat_mode)
    try:
        made = prepare_qat_fx(model, qconfig_dict(given, calibrating), hybrid=given.hybrid, hybrid_dict=hybrid)
    finally:
        set_qat_mode(before)
    return made.to(device)


def metric_of(loaded: LoadedTraining) -> Metric:
    """The metric: (sum, count) of one batch."""
    text = loaded.config.data_parameters.metric
    if text == "accuracy":
        return accuracy
    if ":" not in text:
        where = loaded.place("data_parameters.metric")
        raise ConfigError(f"there is no metric {text!r}.", where=where, hint="Write accuracy or 'file.py:function'.")
    return load_factory(loaded, "data_parameters.metric", text)


def accuracy(outputs: Any, target: Tensor) -> tuple[Tensor, int]:
    """(percent of right answers times count, count); outputs [N, classes, ...] or a tuple whose first is that."""
    logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    guess = logits.flatten(1).argmax(1) if logits.dim() != target.dim() + 1 else logits.argmax(1)
    return 100.0 * (guess == target).sum(), target.numel()


def loss_of(loaded: LoadedTraining) -> Callable[[Any, Any], Tensor]:
    """The loss of a batch."""
    text = loaded.config.data_parameters.loss
    built_in: dict[str, Callable[..., Tensor]] = {
        "cross_entropy": nn.functional.cross_entropy,
        "mse": nn.functional.mse_loss,
    }
    if text in built_in:
        return built_in[text]
    if ":" not in text:
        where = loaded.place("data_parameters.loss")
        raise ConfigError(
            f"there is no loss {text!r}.", where=where, hint=f"Write {', '.join(built_in)} or 'file.py:function'."
        )
    return load_factory(loaded, "data_parameters.loss", text)


def validation_loader(loaded: LoadedTraining, processes: Processes) -> DataLoader[Any] | None:
    """The validation data, None where the YAML names none."""
    text = loaded.config.data_parameters.validation
    return build_loader(loaded, "validation", text, processes, shuffle=False) if text else None


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: DataLoader[Any] | None, metric: Metric, processes: Processes, talk: Talk, label: str
) -> float | None:
    """The metric over all processes' validation data; None without data."""
    if loader is None:
        return None
    model.eval()
    total = torch.zeros(2, dtype=torch.float64)
    with talk.progress(label, len(loader)) as done:
        for index, batch in enumerate(loader):
            inputs, target = split_batch(batch, processes.device)
            if target is None:
                raise DataError("the validation data have no target.", hint="Yield (input, target).")
            value, count = metric(model(*inputs), target)
            total += torch.tensor([float(value), float(count)], dtype=torch.float64)
            done(index + 1)
    summed = all_sum(total.to(processes.device)).cpu() if processes.device.type == "cuda" else all_sum(total)
    return float(summed[0] / summed[1]) if summed[1] > 0 else None


@contextlib.contextmanager
def first_bad_module(model: nn.Module) -> Iterator[list[str]]:
    """Collects the paths of modules whose output is not finite, in the order of execution."""
    found: list[str] = []
    hooks = []
    for path, module in model.named_modules():
        if path:

            def look(_: nn.Module, __: Any, y: Any, path: str = path) -> None:
                if isinstance(y, Tensor) and y.is_floating_point() and not bool(torch.isfinite(y).all()):
                    found.append(path)

            hooks.append(module.register_forward_hook(look))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def explain_bad_loss(model: nn.Module, inputs: tuple[Any, ...], value: float, where: str) -> TrainingError:
    """The error for a loss that is not finite: the first module whose output, weight or scale is not."""
    broken = [n for n, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    with torch.no_grad(), first_bad_module(model) as found:
        model(*inputs)
    if not all(bool(torch.isfinite(x).all()) for x in inputs if isinstance(x, Tensor) and x.is_floating_point()):
        return TrainingError(f"the loss is {value}: an input is not finite.", where=where, hint="Check the data set.")
    first = found[0] if found else "the loss itself"
    weights = f"; the parameter {broken[0]} is not finite" if broken else ""
    return TrainingError(
        f"the loss is {value}; the first module with a result that is not finite is {first}{weights}.",
        where=where,
        hint="Lower learning_rate, set clip_gradient, or calibrate with more data; checkpoints of earlier epochs stay.",
    )
