"""tune: the smallest set of changes that brings a model to a wanted accuracy, each verified and priced.

Every candidate is built as makertbin would build it and compared with the float model on calibration samples. That
comparison is cheap and smooth, so it leads the search; the user's metric, which may take long and jumps with single
samples, is only asked about the nearest candidates, and decides. The order: changes of the whole model that cost
nothing on the chip, alone and then together; then int16 for the nodes that cost most; then the CPU for them. At the end
every change that is not needed is taken back. Calibration samples are observed once per float graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.analysis.sensitivity import SensitivityRequest, sensitivity
from hbtool.analysis.subject import Subject
from hbtool.calibration.scorer import Scorer
from hbtool.calibration.search import Seen
from hbtool.config.dump import dump
from hbtool.config.model_check import check_against_model
from hbtool.config.schema import LoadedConfig
from hbtool.errors import ConfigError, HbError
from hbtool.flows.compile_stage import build_artifact, finish_stage
from hbtool.flows.float_stage import FloatStage, prepare_float
from hbtool.flows.perf import report_of
from hbtool.flows.quantize_stage import QuantizeStage, place_stage, quantize_stage
from hbtool.flows.talk import Quiet, Talk
from hbtool.flows.tune_settings import FREE_CHANGES, Change, apply, compatible, int16, on_cpu
from hbtool.ir.onnx_session import make_session
from hbtool.passes.equalize import equalize
from hbtool.runtime.artifact import Artifact
from hbtool.runtime.session import Session

Metric = Callable[[Any], float]
"""The user's measure of a session (get_inputs, get_outputs, run(names, feeds), as onnxruntime's); larger is better."""

_GAIN = 1e-4
_MOST_NODES = 16
_SENSITIVITY_SAMPLES = 8
_FREE_ROUNDS = 4
_FINALISTS = 2
_FAR_BELOW = 0.97


@dataclass(frozen=True)
class TuneTarget:
    """What is wanted.

    Attributes:
        cosine: cosine similarity of the outputs to the float model's; None where the metric decides.
        metric: the user's measure.
        wanted: value of the metric to reach; None: the float model's less `max_drop`.
        max_drop: how far the metric may fall below the float model's.
    """

    cosine: float | None = None
    metric: Metric | None = None
    wanted: float | None = None
    max_drop: float = 0.0


@dataclass(frozen=True)
class TuneTrial:
    """One candidate, built and measured.

    Attributes:
        changes: what differs from the user's configuration.
        cosine: mean over samples of the smallest cosine similarity of any output.
        metric: the user's measure, None where it was not taken.
        latency_us: of the BPU segments, plus an estimate of the CPU parts on the board; None where the candidate was
            not worth compiling.
        reached: whether the target is reached.
        refused: int16 requests that fell back to int8.
    """

    changes: tuple[Change, ...]
    cosine: float
    metric: float | None
    latency_us: float | None
    reached: bool
    refused: int = 0


@dataclass(frozen=True)
class TuneResult:
    """What tune found.

    Attributes:
        base: the user's configuration.
        chosen: the best candidate; `chosen.reached` says whether it is good enough.
        float_metric: the user's measure of the float model, None without one.
        trials: everything that was tried, in order.
        prices_us: label of each chosen change -> what it adds to the latency, given the others.
        loaded: the new configuration.
        text: the same as YAML.
    """

    base: TuneTrial
    chosen: TuneTrial
    float_metric: float | None
    trials: tuple[TuneTrial, ...]
    prices_us: Mapping[str, float]
    loaded: LoadedConfig
    text: str


def tune(loaded: LoadedConfig, target: TuneTarget, talk: Talk | None = None) -> TuneResult:
    """Search, verify and price.

    Raises:
        ConfigError: ranges come with the model, so there is nothing to tune. HbError: as makertbin.
    """
    if loaded.calibration_parameters.calibration_type in ("load", "skip"):
        raise ConfigError(
            f"calibration_type {loaded.calibration_parameters.calibration_type} leaves nothing to tune",
            where=str(loaded.place("calibration_parameters", "calibration_type")),
            hint="Name calibration data and another calibration_type.",
        )
    return _Tuner(loaded, target, talk or Quiet()).run()


class FloatSession:
    """The float model behind the interface of an artifact: the same inputs in the runtime format, float outputs."""

    def __init__(self, artifact: Artifact, original: ir.Model) -> None:
        self._host = Session(artifact)
        self._session = make_session(original)

    def get_inputs(self) -> Any:
        """As the artifact's."""
        return self._host.get_inputs()

    def get_outputs(self) -> Any:
        """As the artifact's."""
        return self._host.get_outputs()

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        """Run once, as an artifact's session."""
        inputs = self._host.graph_feeds(feeds)
        known = {i.name: i.type for i in self._session.get_inputs()}
        prepared = {n: inputs[n].astype(np.float32) if "float" in kind else inputs[n] for n, kind in known.items()}
        names = list(output_names) if output_names is not None else [o.name for o in self.get_outputs()]
        return list(self._session.run(names, prepared))


class _Tuner:
    def __init__(self, loaded: LoadedConfig, target: TuneTarget, talk: Talk) -> None:
        self.loaded, self.talk = loaded, talk
        self.target = target
        self.trials: list[TuneTrial] = []
        self.seen: dict[frozenset[Change], TuneTrial] = {}
        self.stage = prepare_float(apply(loaded, ()), talk)
        self.graphs: dict[bool, tuple[ir.Model, Seen]] = {False: (self.stage.optimized, Seen())}
        self.scorer = Scorer(self.stage.optimized, self.stage.samples)
        self.float_metric: float | None = None

    def run(self) -> TuneResult:
        base = self._try(())
        best = base
        if not best.reached:
            best = self._free(best)
        if not best.reached:
            best = self._nodes(best, int16, "int16")
        if not best.reached:
            best = self._nodes(best, on_cpu, "the CPU")
        if best.reached:
            best = self._without_needless(best)
        prices = {c.label: self._latency(best.changes) - self._latency(_less(best.changes, c)) for c in best.changes}
        final = apply(self.loaded, best.changes)
        return TuneResult(base, best, self.float_metric, tuple(self.trials), prices, final, dump(final.config))

    def _try(self, changes: tuple[Change, ...]) -> TuneTrial:
        """A candidate with everything measured."""
        return self._measured(changes, complete=True)

    def _cosine(self, changes: tuple[Change, ...]) -> float | None:
        """Only how near the candidate is, which is cheap; None where it cannot be built."""
        try:
            return self._measured(changes, complete=False).cosine
        except HbError as error:
            self.talk.info(f"{', '.join(c.label for c in changes)}: {error}")
            return None

    def _latency(self, changes: tuple[Change, ...]) -> float:
        stage, quantized = self._quantize(changes)
        return self._compiled(stage, quantized)[1]

    def _measured(self, changes: tuple[Change, ...], complete: bool) -> TuneTrial:
        key = frozenset(changes)
        known = self.seen.get(key)
        if known is not None and (known.latency_us is not None or not complete):
            return known
        self.seen[key] = trial = self._build(changes, complete)
        self.trials = [*(t for t in self.trials if t is not known), trial]
        self.talk.info(describe(trial))
        return trial

    def _build(self, changes: tuple[Change, ...], complete: bool) -> TuneTrial:
        stage, quantized = self._quantize(changes)
        cosine = self.scorer.score(quantized.quantized)
        refused = len(quantized.refused)
        if not complete:
            return TuneTrial(changes, cosine, None, None, False, refused)
        artifact, latency_us = self._compiled(stage, quantized)
        metric = self._metric(artifact)
        return TuneTrial(changes, cosine, metric, latency_us, self._reached(cosine, metric), refused)

    @staticmethod
    def _compiled(stage: FloatStage, quantized: QuantizeStage) -> tuple[Artifact, float]:
        artifact = build_artifact(stage, quantized, finish_stage(stage, quantized, Quiet()), Quiet())
        report = report_of(artifact, Quiet(), measure=False)
        return artifact, report.latency_us + report.cpu_estimate_us

    def _quantize(self, changes: tuple[Change, ...]) -> tuple[FloatStage, QuantizeStage]:
        loaded = apply(self.loaded, changes)
        flagged = self.loaded.calibration_parameters.optimization.equalize
        optimized, seen = self._graph(loaded.calibration_parameters.optimization.equalize and not flagged)
        check = check_against_model(loaded, self.stage.facts)
        stage = replace(self.stage, loaded=loaded, check=check, optimized=optimized)
        return stage, quantize_stage(stage, place_stage(stage, Quiet()), Quiet(), seen)

    def _graph(self, evened: bool) -> tuple[ir.Model, Seen]:
        """The float graph, equalized or as it is, with what is known of its values."""
        if evened not in self.graphs:
            optimized = self.stage.optimized.clone()
            equalize(optimized)
            self.graphs[evened] = (optimized, Seen())
        return self.graphs[evened]

    def _metric(self, artifact: Artifact) -> float | None:
        if self.target.metric is None:
            return None
        if self.float_metric is None:
            self.float_metric = float(self.target.metric(FloatSession(artifact, self.stage.original)))
            self.talk.info(f"float model: metric {self.float_metric:g}")
        return float(self.target.metric(Session(artifact)))

    def _reached(self, cosine: float, metric: float | None) -> bool:
        if self.target.cosine is not None and not cosine >= self.target.cosine:
            return False
        if metric is None or self.float_metric is None:
            return True
        wanted = self.target.wanted if self.target.wanted is not None else self.float_metric - self.target.max_drop
        return metric >= wanted

    def _quality(self, trial: TuneTrial) -> tuple[float, float]:
        return (trial.metric if trial.metric is not None else 0.0, trial.cosine)

    def _free(self, best: TuneTrial) -> TuneTrial:
        """Whole-model changes: the nearest one, then the addition that brings it nearer still, while there is one.

        Returns the first candidate that reaches the target, else the best one seen.
        """
        front, near, useful = best.changes, best.cosine, FREE_CHANGES
        for _ in range(_FREE_ROUNDS):
            found = [(c, self._cosine((*front, c))) for c in useful if compatible(front, c)]
            gains = sorted(((x, c) for c, x in found if x is not None and x > near + _GAIN), key=lambda g: -g[0])
            for _, change in gains[:_FINALISTS]:
                trial = self._attempt((*front, change))
                if trial is not None and trial.reached:
                    return trial
            if not gains:
                break
            near, front = gains[0][0], (*front, gains[0][1])
            useful = tuple(c for c in useful if any(c == g for _, g in gains))
        return self._best_complete(best)

    def _best_complete(self, default: TuneTrial) -> TuneTrial:
        return max((t for t in self.trials if t.latency_us is not None), key=self._quality, default=default)

    def _attempt(self, changes: tuple[Change, ...]) -> TuneTrial | None:
        """A candidate, or None where it cannot be built."""
        try:
            return self._try(changes)
        except HbError as error:
            self.talk.info(f"{', '.join(c.label for c in changes)}: {error}")
            return None

    def _nodes(self, best: TuneTrial, change: Callable[[str], Change], where: str) -> TuneTrial:
        """More and more of the most expensive nodes, until the target is reached."""
        _, quantized = self._quantize(best.changes)
        request = SensitivityRequest(samples=_SENSITIVITY_SAMPLES)
        self.talk.info(f"sensitivity of the nodes, to choose those for {where}")
        rows = sensitivity(Subject(quantized.quantized.ranged, self.stage.samples), request)
        known = {n.name for n in self.stage.facts.nodes}
        nodes = [r.node for r in rows if r.node in known and r.measures.cosine < 1]
        count = 1
        while nodes and count // 2 < min(len(nodes), _MOST_NODES):
            added = tuple(change(n) for n in nodes[:count])
            trial = self._attempt((*best.changes, *added))
            if trial is not None and trial.reached:
                return trial
            if trial is not None and count >= 4 and trial.cosine <= best.cosine:
                return best
            count *= 2
        return self._best_complete(best)

    def _without_needless(self, best: TuneTrial) -> TuneTrial:
        """Take back every change without which the target is still reached, the most expensive kinds first."""
        order = {"cpu": 0, "int16": 1, "flag": 2, "calibration": 3}
        for change in sorted(best.changes, key=lambda c: order[c.kind]):
            if len(best.changes) == 1:
                break
            fewer = _less(best.changes, change)
            near = self._cosine(fewer)
            # Far from the float model no metric is worth its time.
            if near is None or near < _FAR_BELOW * best.cosine:
                continue
            trial = self._attempt(fewer)
            if trial is not None and trial.reached:
                best = trial
        return best


def _less(changes: tuple[Change, ...], change: Change) -> tuple[Change, ...]:
    return tuple(c for c in changes if c != change)


def describe(trial: TuneTrial) -> str:
    """One line: what was changed, and what came of it."""
    what = ", ".join(c.label for c in trial.changes) or "as configured"
    metric = "" if trial.metric is None else f", metric {trial.metric:g}"
    latency = "" if trial.latency_us is None else f", {trial.latency_us / 1000:.3f} ms"
    refused = f", {trial.refused} int16 requests refused" if trial.refused else ""
    return f"{what}: cosine {trial.cosine:.6f}{metric}{latency}{refused}"
