"""qat: quantization-aware training from a calibrated model, with checkpoints, resume and several processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from hbtool.config.training_loader import LoadedTraining
from hbtool.errors import ConfigError, DataError
from hbtool.flows.calib import calibrated_model, load_state
from hbtool.flows.convert import fixed_point
from hbtool.flows.talk import Quiet, Talk
from hbtool.flows.training_optimizer import learning_rate, make_optimizer, optimizer_facts, restore_optimizer
from hbtool.flows.training_results import BEST, LAST, StageResult, finish, read_metrics
from hbtool.flows.training_setup import (
    Processes,
    build_loader,
    build_model,
    march_set,
    processes,
    set_epoch,
    split_batch,
)
from hbtool.flows.training_stages import (
    evaluate,
    explain_bad_loss,
    loss_of,
    metric_of,
    prepare,
    validation_loader,
)
from hbtool.quantization.bias_correction import adopt_biases
from hbtool.quantization.checkpoint_files import read_checkpoint, write_checkpoint
from hbtool.quantization.exact import set_exact_mode
from hbtool.quantization.fake_quantize import FakeQuantState, set_fake_quantize
from hbtool.quantization.observed import ObservedGraphModule, load_observer_params


def qat(loaded: LoadedTraining, talk: Talk | None = None, resume: bool = False) -> StageResult | None:
    """Train the model of the YAML with fake quantizers; None in processes other than the first.

    Args:
        loaded: the configuration.
        talk: progress.
        resume: go on after the last finished epoch; on the CPU the result is that of a run without interruption.

    Raises:
        TrainingError: the loss is not finite (names the first module).
        HbError: of the class that names the cause; checkpoints of finished epochs stay.
    """
    talk = talk or Quiet()
    given = loaded.config
    with processes(given.training_parameters.device) as mine, march_set(given.model_parameters.march):
        return _Run(loaded, mine, talk).run(resume)


class _Run:
    """One training run in one process."""

    def __init__(self, loaded: LoadedTraining, mine: Processes, talk: Talk) -> None:
        self.loaded, self.mine, self.talk = loaded, mine, talk
        self.given = loaded.config.training_parameters
        text = loaded.config.data_parameters.training
        if text is None:
            raise ConfigError(
                "data_parameters names no training data.", where=loaded.place("data_parameters"), hint="Add training."
            )
        self.loader = build_loader(loaded, "training", text, mine, shuffle=True, drop_last=True)
        self.validation: DataLoader[Any] | None = validation_loader(loaded, mine)
        self.metric, self.loss = metric_of(loaded), loss_of(loaded)
        self.history: list[dict[str, float | None]] = []
        self.best: float | None = None
        self.start = 0

    def run(self, resume: bool) -> StageResult | None:
        model = self._prepare(resume)
        optimizer = make_optimizer(self.given, model, self.mine.world)
        if resume:
            self._resume(model, optimizer)
        if self.mine.world > 1:
            self.talk.info(
                f"{self.mine.world} processes: batch {self.mine.world} x {self.loader.batch_size}, learning rate "
                f"{self.given.learning_rate:g} x {self.mine.world} = {self.given.learning_rate * self.mine.world:g}"
            )
        trained: nn.Module = model
        if self.mine.world > 1:
            ids = [self.mine.device] if self.mine.device.type == "cuda" else None
            trained = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
        for epoch in range(self.start, self.given.epochs):
            self._epoch(trained, model, optimizer, epoch)
        return self._finish(model)

    def _prepare(self, resume: bool) -> ObservedGraphModule:
        float_model = build_model(self.loaded).to(self.mine.device)
        known = read_metrics(self.loaded.working_dir) if resume else {}
        self.metrics: dict[str, float | None] = {"float": known.get("float")}
        if self.metrics["float"] is None:
            self.metrics["float"] = evaluate(
                float_model, self.validation, self.metric, self.mine, self.talk, "float model"
            )
        calibrated = calibrated_model(self.loaded, float_model, self.mine, self.talk)
        self.metrics["calibrated"] = evaluate(
            calibrated, self.validation, self.metric, self.mine, self.talk, "calibrated model"
        )
        model = prepare(self.loaded, float_model, calibrating=False, device=self.mine.device)
        load_observer_params(calibrated, model)
        adopt_biases(calibrated, model)
        model.hb.example = calibrated.hb.example
        if self.loaded.config.quantization_parameters.exact:
            set_exact_mode(model)
        return model

    # --------------------------------------------------------------------------------------------------- one epoch

    def _epoch(
        self, trained: nn.Module, model: ObservedGraphModule, optimizer: torch.optim.Optimizer, epoch: int
    ) -> None:
        set_epoch(self.loader, epoch)
        # Augmentation draws from here: an epoch does not depend on what ran before it.
        torch.manual_seed(self.given.seed * 100_003 + epoch * 1009 + self.mine.rank)
        trained.train()
        set_fake_quantize(model, FakeQuantState.QAT)
        loss = self._train(trained, model, optimizer, epoch)
        model.eval()
        set_fake_quantize(model, FakeQuantState.VALIDATION)
        value = evaluate(model, self.validation, self.metric, self.mine, self.talk, "validating")
        self.history.append({"epoch": epoch + 1, "loss": loss, "metric": value})
        shown = "" if value is None else f", validation {value:.2f}"
        self.talk.info(f"epoch {epoch + 1}/{self.given.epochs}: loss {loss:.4f}{shown}")
        better = self._is_better(value)
        if better:
            self.best = value
        if self.mine.first:
            self._save(model, optimizer, epoch + 1, better)

    def _train(
        self, trained: nn.Module, model: ObservedGraphModule, optimizer: torch.optim.Optimizer, epoch: int
    ) -> float:
        steps = len(self.loader)
        last = f", last {self.history[-1]['metric']:.2f}" if self.history and self.history[-1]["metric"] else ""
        total, images, since = 0.0, 0, time.perf_counter()
        with self.talk.progress(f"epoch {epoch + 1}/{self.given.epochs}{last}", steps) as done:
            for step, batch in enumerate(self.loader):
                rate = learning_rate(self.given, self.mine.world, epoch, step, steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                inputs, target = split_batch(batch, self.mine.device)
                if target is None:
                    raise DataError("the training data have no target.", hint="Yield (input, target).")
                value = self._step(trained, optimizer, inputs, target)
                if not bool(torch.isfinite(value)):
                    raise explain_bad_loss(model, inputs, float(value), f"epoch {epoch + 1}, step {step + 1}")
                total += float(value)
                images += len(inputs[0]) * self.mine.world
                speed = images / max(time.perf_counter() - since, 1e-9)
                done(step + 1, f"loss {total / (step + 1):.4f}  {speed:.0f} images/s")
        return total / max(steps, 1)

    def _step(
        self, trained: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple[Any, ...], target: Any
    ) -> Tensor:
        with torch.autocast(self.mine.device.type, torch.bfloat16, enabled=self.given.amp):
            outputs = trained(*inputs)
        loss = self.loss(outputs.float() if isinstance(outputs, Tensor) else outputs, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.given.clip_gradient is not None:
            nn.utils.clip_grad_norm_(trained.parameters(), self.given.clip_gradient)
        optimizer.step()
        return loss.detach()

    def _is_better(self, value: float | None) -> bool:
        if value is None or self.best is None:
            return True
        return value > self.best if self.loaded.config.data_parameters.metric_mode == "max" else value < self.best

    # ----------------------------------------------------------------------------------------------- checkpoints

    def _facts(self) -> dict[str, Any]:
        training = self.given.model_dump(mode="json")
        return {
            "stage": "qat",
            "history": self.history,
            "best": self.best,
            "training": training,
            "processes": self.mine.world,
        }

    def _save(self, model: ObservedGraphModule, optimizer: torch.optim.Optimizer, epoch: int, better: bool) -> None:
        folder = self.loaded.working_dir
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        if better:
            write_checkpoint(folder / BEST, tensors, {**self._facts(), "epoch": epoch})
        state, numbers = optimizer_facts(optimizer)
        facts = {**self._facts(), "epoch": epoch, "optimizer": numbers}
        write_checkpoint(folder / LAST, {**tensors, **state}, facts)

    def _resume(self, model: ObservedGraphModule, optimizer: torch.optim.Optimizer) -> None:
        path = self.loaded.working_dir / LAST
        if not path.is_file():
            self.talk.info("nothing to resume: starting at epoch 1")
            return
        tensors, facts = read_checkpoint(path)
        load_trained(model, tensors, path)
        restore_optimizer(optimizer, tensors, facts["optimizer"])
        self.start, self.history, self.best = int(facts["epoch"]), list(facts["history"]), facts["best"]
        changed = [
            k for k, v in self.given.model_dump(mode="json").items() if facts["training"].get(k) != v and k != "epochs"
        ]
        if changed:
            self.talk.warn(f"training_parameters changed since the checkpoint: {', '.join(changed)}")
        if facts["processes"] != self.mine.world:
            self.talk.warn(
                f"the checkpoint was trained by {facts['processes']} processes, now there are {self.mine.world}: "
                "the global batch and the learning rate change with it"
            )
        self.talk.info(f"resumed after epoch {self.start}")

    def _finish(self, model: ObservedGraphModule) -> StageResult | None:
        folder = self.loaded.working_dir
        if self.mine.first and not (folder / BEST).is_file():
            self._save(model, make_optimizer(self.given, model, 1), 0, True)
        if self.mine.world > 1:
            torch.distributed.barrier()
        tensors, _ = read_checkpoint(folder / BEST)
        load_trained(model, tensors, folder / BEST)
        model.eval()
        set_fake_quantize(model, FakeQuantState.VALIDATION)
        self.metrics["QAT"] = evaluate(model, self.validation, self.metric, self.mine, self.talk, "best QAT model")
        fixed = fixed_point(model)
        self.metrics["fixed point"] = evaluate(
            fixed, self.validation, self.metric, self.mine, self.talk, "fixed-point model"
        )
        if not self.mine.first:
            return None
        files = {"best": folder / BEST, "last": folder / LAST}
        return finish(self.loaded, "qat", self.metrics, files, facts={"history": self.history})


def load_trained(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load the model's part of a QAT checkpoint."""
    load_state(model, {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, str(path))


__all__ = ["load_trained", "qat"]
