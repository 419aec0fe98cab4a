"""What every torch command starts with: the user's model and data, the device, the processes."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from hbtool.config.training_loader import LoadedTraining
from hbtool.errors import ConfigError, DataError, ModelError
from hbtool.march import March, get_march, set_march
from hbtool.quantization.checkpoint_files import read_state


@dataclass(frozen=True)
class Processes:
    """This process among all that take part.

    Attributes:
        rank: 0 writes files and talks.
        world: number of processes.
        device: where this process computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0


@contextlib.contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started (one process otherwise); leaves the group at the end."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device is {device}, and torch sees no GPU.", hint="Write device: cpu or auto.")
    if device == "cuda" and world > 1:
        device = f"cuda:{local}"
    place = torch.device(device)
    if place.type == "cuda":
        # NCCL and every "cuda" without a number mean this process's own card.
        torch.cuda.set_device(place)
    started = world > 1 and not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, place)
    finally:
        if started:
            dist.destroy_process_group()


@contextlib.contextmanager
def march_set(march: str) -> Iterator[None]:
    """The march of the configuration, for the time of a flow."""
    before = get_march()
    set_march(march)
    try:
        yield
    finally:
        if isinstance(before, March):
            set_march(before)


def load_factory(loaded: LoadedTraining, key: str, text: str) -> Callable[..., Any]:
    """The function or class that `package.module:function` or `file.py:Class` names.

    Raises:
        ConfigError: it does not exist or cannot be imported (where = file:line of `key`).
    """
    source, _, name = text.rpartition(":")
    where = loaded.place(key)
    if source.endswith(".py") and not (loaded.folder / source).is_file():
        raise ConfigError(f"there is no file {source}.", where=where, hint="Paths count from the YAML.")
    try:
        with _importable(loaded.folder):
            module = _from_file(loaded.folder / source) if source.endswith(".py") else importlib.import_module(source)
    except Exception as error:
        raise ConfigError(
            f"{source} cannot be imported: {type(error).__name__}: {error}",
            where=where,
            hint="Write 'package.module:function' (importable from here) or 'file.py:Class'.",
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        import difflib

        near = difflib.get_close_matches(name, dir(module), 1)
        guess = f"Did you mean {near[0]!r}?" if near else f"Define {name} there."
        raise ConfigError(f"{source} has no function or class {name}.", where=where, hint=guess)
    made: Callable[..., Any] = found
    return made


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    added = [str(folder), os.getcwd()]
    sys.path[:0] = added
    try:
        yield
    finally:
        for path in added:
            sys.path.remove(path)


def _from_file(path: Path) -> Any:
    path = path.resolve()
    # Its folder too: a sample imports its neighbours by name.
    name = f"hbtool_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def build_model(loaded: LoadedTraining) -> nn.Module:
    """The float network with its weights, in eval mode on the CPU.

    Raises:
        ConfigError: the factory does not give a module.
        ModelError: the weights do not fit.
    """
    given = loaded.config.model_parameters
    torch.manual_seed(loaded.config.training_parameters.seed)
    factory = load_factory(loaded, "model_parameters.model", given.model)
    try:
        model = factory(**given.model_kwargs)
    except TypeError as error:
        where = loaded.place("model_parameters.model_kwargs")
        raise ConfigError(f"the model factory refuses its arguments: {error}", where=where) from error
    if not isinstance(model, nn.Module):
        where = loaded.place("model_parameters.model")
        raise ConfigError(f"the model factory gave a {type(model).__name__}.", where=where, hint="Return a Module.")
    if given.weights is not None:
        _load_weights(model, loaded.folder / given.weights)
    return model.eval()


def _load_weights(model: nn.Module, path: Path) -> None:
    state = read_state(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ModelError(
            f"the weights do not fit the model: {' '.join(lines)}",
            where=str(path),
            hint="Name the weights of this network, or change model_kwargs.",
        ) from error


class EpochSampler(Sampler[int]):
    """A fixed order per (seed, epoch), every `world`-th element of it; all processes get the same number.

    The processes' batches of one step are together the batch that one process with a batch `world` times as large has.
    """

    def __init__(self, count: int, processes_: Processes, seed: int, shuffle: bool, equal: bool) -> None:
        self.count, self.processes, self.seed, self.shuffle = count, processes_, seed, shuffle
        self.equal = equal
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.count))
        if self.shuffle:
            random = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            order = torch.randperm(self.count, generator=random).tolist()
        world = self.processes.world
        if self.equal:
            order = order[: len(order) // world * world]
        return iter(order[self.processes.rank :: world])

    def __len__(self) -> int:
        world = self.processes.world
        return self.count // world if self.equal else len(range(self.processes.rank, self.count, world))


def build_loader(
    loaded: LoadedTraining, key: str, text: str, processes_: Processes, shuffle: bool, drop_last: bool = False
) -> DataLoader[Any]:
    """The data of one purpose, in an order that depends on the seed and the epoch only.

    A DataLoader that the factory returns is used as it is in one process; with several its data set is shared out.
    """
    data, training = loaded.config.data_parameters, loaded.config.training_parameters
    found = load_factory(loaded, f"data_parameters.{key}", text)(**data.data_kwargs)
    if isinstance(found, DataLoader):
        if processes_.world == 1:
            return found
        batch, workers, collate, found = found.batch_size or 1, found.num_workers, found.collate_fn, found.dataset
    else:
        batch, workers, collate = data.batch_size, data.workers, None
    if not isinstance(found, Dataset) and not hasattr(found, "__getitem__"):
        raise ConfigError(
            f"the factory gave a {type(found).__name__}.",
            where=loaded.place(f"data_parameters.{key}"),
            hint="Return a torch Dataset or DataLoader.",
        )
    count = len(found)
    if count < processes_.world or count == 0:
        raise DataError(f"{key}: the data set holds {count} elements.", where=loaded.place(f"data_parameters.{key}"))
    sampler = EpochSampler(count, processes_, training.seed, shuffle, equal=shuffle or key == "calibration")
    return DataLoader(
        found, batch, sampler=sampler, num_workers=workers, collate_fn=collate, drop_last=drop_last and count >= batch
    )


def set_epoch(loader: DataLoader[Any], epoch: int) -> None:
    """The order of this epoch."""
    if isinstance(loader.sampler, EpochSampler):
        loader.sampler.epoch = epoch


def split_batch(batch: Any, device: torch.device) -> tuple[tuple[Any, ...], Any]:
    """(inputs, target) of a batch (inputs..., target); a bare tensor has no target.

    Raises:
        DataError: the batch is something else.
    """
    if isinstance(batch, torch.Tensor):
        return (batch.to(device),), None
    if not isinstance(batch, (tuple, list)) or not batch:
        raise DataError(
            f"the data set yields a {type(batch).__name__}.", hint="Yield (input, ..., target), or one tensor."
        )
    moved = [part.to(device) if isinstance(part, torch.Tensor) else part for part in batch]
    if len(moved) == 1:
        return (moved[0],), None
    return tuple(moved[:-1]), moved[-1]
