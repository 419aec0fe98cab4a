"""Optimizers and learning rates of QAT, and their state as tensors and numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.config.training import TorchTraining


def make_optimizer(given: TorchTraining, model: nn.Module, world: int) -> torch.optim.Optimizer:
    """The optimizer over the prepared model's parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rate = given.learning_rate * world
    if given.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=given.momentum, weight_decay=given.weight_decay)
    kind = torch.optim.Adam if given.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, rate, weight_decay=given.weight_decay)


def learning_rate(given: TorchTraining, world: int, epoch: int, step: int, steps: int) -> float:
    """The rate of one step: linear in the number of processes, because the global batch is."""
    base = given.learning_rate * world
    if given.schedule == "cosine":
        share = (epoch * steps + step) / max(given.epochs * steps, 1)
        return base * 0.5 * (1.0 + math.cos(math.pi * share))
    if given.schedule == "step":
        return float(base * 0.1 ** sum(epoch >= e for e in given.step_epochs))
    return base


def optimizer_facts(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, numbers) of the optimizer's state."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            key = f"optimizer.{index}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
            else:
                numbers[key] = value
    return tensors, numbers


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Give the optimizer the state back."""
    found = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *numbers.items()]:
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": found["param_groups"]})
