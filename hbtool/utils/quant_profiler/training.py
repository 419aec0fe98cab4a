"""Why QAT does not learn, or diverges: state flags, scales, the optimizer's parameters, the first NaN."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.quantization.observed import fake_quantizers

_log = logging.getLogger(__name__)
_HUGE_SCALE = 1e6
_SHOWN = 5


@dataclass(frozen=True)
class TrainingFinding:
    """One reason why training cannot work, or will not work well.

    Attributes:
        check: optimizer, training flag, fake quantizers, observers, scale, parameters, forward or gradient.
        where: module path, empty where the whole model is meant.
        text: what was found, and what to do.
    """

    check: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


def diagnose_training(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    example_inputs: Any = None,
    loss: Callable[[Any], Tensor] | None = None,
) -> list[TrainingFinding]:
    """Findings, the most likely cause first; nothing where training can work. They are logged too.

    Args:
        model: prepared model; its parameters, gradients and scales are left as they were.
        optimizer: the optimizer of the training loop.
        example_inputs: a batch; with it the first module that gives NaN or infinity is named.
        loss: outputs -> scalar; with it and a batch, the first module whose gradient is NaN or infinite is named.
    """
    findings = [*_optimizer(model, optimizer), *_flags(model), *_scales(model), *_parameters(model)]
    if example_inputs is not None:
        findings += _run(model, example_inputs, loss)
    for finding in findings:
        _log.warning("diagnose_training: %s", finding)
    return findings


def _optimizer(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Iterator[TrainingFinding]:
    if optimizer is None:
        return
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    missing = [name for name, p in own.items() if id(p) not in held]
    if missing:
        names = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
        yield TrainingFinding(
            "optimizer", "",
            f"the optimizer does not hold {len(missing)} of the model's {len(own)} parameters ({names}): it was built "
            "before prepare; build it from the prepared model's parameters().",
        )  # fmt: skip
    if any(group.get("lr") == 0 for group in optimizer.param_groups):
        yield TrainingFinding("optimizer", "", "a learning rate is 0; check the scheduler.")


def _flags(model: nn.Module) -> Iterator[TrainingFinding]:
    quantizers = fake_quantizers(model)
    if not quantizers:
        text = "the model has no fake quantizer: it was not prepared."
        yield TrainingFinding("fake quantizers", "", text)
        return
    if not model.training:
        yield TrainingFinding("training flag", "", "the model is in eval mode; call model.train() before training.")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if frozen:
        yield TrainingFinding("parameters", frozen[0], f"{len(frozen)} parameters do not require a gradient.")
    off = [p for p, q in quantizers.items() if not q.flags()[1]]
    if off:
        text = f"fake_quant_enabled is 0 in {len(off)} of {len(quantizers)} fake quantizers; "
        yield TrainingFinding("fake quantizers", off[0], f"{text}call set_fake_quantize(model, FakeQuantState.QAT).")
    still = [p for p, q in quantizers.items() if not q.flags()[0] and q.activation_post_process.learns]
    if still:
        text = f"observer_enabled is 0 in {len(still)} of {len(quantizers)} fake quantizers: their scales are frozen; "
        yield TrainingFinding("observers", still[0], f"{text}intended only with fixed or learned scales.")


def _scales(model: nn.Module) -> Iterator[TrainingFinding]:
    quantizers = fake_quantizers(model)
    unseen = [p for p, q in quantizers.items() if not q.was_observed()]
    if unseen:
        text = f"{len(unseen)} of {len(quantizers)} scales are still 1, their initial value: no batch was observed; "
        yield TrainingFinding("scale", unseen[0], f"{text}calibrate first.")
    for path, q in quantizers.items():
        scale = q.scale.detach()
        if not torch.isfinite(scale).all():
            yield TrainingFinding(
                "scale", path, "the scale is NaN or infinite; its input was, or the rate is too high."
            )
        elif (scale <= 0).any():
            yield TrainingFinding("scale", path, "the scale is 0 or negative: everything it rounds becomes NaN.")
        elif (scale > _HUGE_SCALE).any():
            yield TrainingFinding(
                "scale", path, f"the scale is {scale.max().item():.3g}; the values explode before it."
            )


def _parameters(model: nn.Module) -> Iterator[TrainingFinding]:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter.detach()).all():
            yield TrainingFinding("parameters", name, "the parameter holds NaN or infinity; go back to a checkpoint.")


def _run(model: nn.Module, example_inputs: Any, loss: Callable[[Any], Tensor] | None) -> list[TrainingFinding]:
    batch = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    for index, tensor in enumerate(batch):
        if isinstance(tensor, Tensor) and not torch.isfinite(tensor).all():
            return [TrainingFinding("forward", "", f"input {index} itself holds NaN or infinity; check the data.")]
    watch = _Watch(model)
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    gradients = {p: p.grad for p in model.parameters()}
    try:
        with torch.set_grad_enabled(loss is not None):
            output = model(*batch)
            if loss is not None and not watch.forward:
                loss(output).backward()  # type: ignore[no-untyped-call]
    finally:
        watch.remove()
        model.load_state_dict(state)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
    return [*watch.forward[:1], *watch.backward[:1]]


class _Watch:
    """Hooks on every leaf that look for NaN and infinity."""

    def __init__(self, model: nn.Module) -> None:
        self.forward: list[TrainingFinding] = []
        self.backward: list[TrainingFinding] = []
        self._handles = []
        for path, module in model.named_modules():
            if path and not isinstance(module, FakeQuantizeBase):
                self._handles.append(module.register_forward_hook(self._looker(path)))

    def _looker(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, _: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if not torch.isfinite(tensor).all():
                    self.forward.append(TrainingFinding("forward", path, f"its output {_what(tensor)}{_scale(module)}"))
                elif tensor.requires_grad:
                    tensor.register_hook(self._gradient_looker(path, module))  # type: ignore[no-untyped-call]

        return look

    def _gradient_looker(self, path: str, module: nn.Module) -> Callable[[Tensor], None]:
        def look(gradient: Tensor) -> None:
            if not torch.isfinite(gradient).all():
                text = f"the gradient of its output {_what(gradient)}{_scale(module)}"
                self.backward.append(TrainingFinding("gradient", path, text))

        return look

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()


def _tensors(value: Any) -> Sequence[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []


def _what(tensor: Tensor) -> str:
    return "holds NaN" if torch.isnan(tensor).any() else "holds infinity"


def _scale(module: nn.Module) -> str:
    post = getattr(module, "activation_post_process", None)
    if not isinstance(post, FakeQuantizeBase):
        return ", the first module where that happens"
    return f" (scale {post.scale.detach().abs().max().item():.3g}), the first module where that happens"
