"""Checkpoints: one safetensors file with the tensors, and everything else as JSON in its header.

A file is written beside its name and renamed, so that a full disk or a kill leaves the previous one intact; reading
executes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hbtool.errors import ModelError
from hbtool.ir.save import write_bytes

_FACTS = "hbtool.checkpoint"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write tensors and facts (JSON) as one step.

    Raises:
        HbError: the disk is full or the folder cannot be written; the previous file stays.
    """
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    data = safetensors.torch.save(plain, {_FACTS: json.dumps(facts, sort_keys=True)})
    return write_bytes(path, data)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, facts) of `write_checkpoint`.

    Raises:
        ModelError: no such file, or it is damaged or not a checkpoint.
    """
    if not path.is_file():
        raise ModelError("there is no checkpoint.", where=str(path), hint="Run the command that writes it first.")
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get(_FACTS, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"the checkpoint cannot be read: {error}", where=str(path), hint="Delete it and run again."
        ) from error
    if facts is None:
        raise ModelError("this is not a checkpoint of hbtool.", where=str(path), hint="Check the path.")
    return tensors, facts


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a torch file that holds tensors only (nothing is executed).

    A published file may wrap it: `{"state_dict": {"module.conv.weight": ...}}`.

    Raises:
        ModelError: no such file, or it holds something that would have to be executed.
    """
    if not path.is_file():
        raise ModelError("there is no such weights file.", where=str(path), hint="Check model_parameters.weights.")
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"the weights cannot be read safely: {str(error).splitlines()[0]}",
            where=str(path),
            hint="Save model.state_dict() with safetensors.torch.save_file, and name that file.",
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError("the file holds no state dict.", where=str(path), hint="Save model.state_dict().")
    return {name.removeprefix("module."): value for name, value in state.items()}
