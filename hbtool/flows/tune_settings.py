"""The changes that tune may make, as values; each knows what it writes into a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hbtool.config.node_info import NodeSetting
from hbtool.config.schema import Config, LoadedConfig


@dataclass(frozen=True)
class Change:
    """One change of a configuration.

    Attributes:
        label: how a person calls it.
        kind: `calibration`, `flag`, `int16` or `cpu`.
        keys: keys of calibration_parameters and their new values.
        flag: an `optimization` flag.
        node: the node that goes to int16 or to the CPU.
    """

    label: str
    kind: str
    keys: tuple[tuple[str, Any], ...] = ()
    flag: str | None = None
    node: str | None = None


def _method(label: str, **keys: Any) -> Change:
    return Change(label, "calibration", tuple(keys.items()))


FREE_CHANGES: tuple[Change, ...] = (
    Change("equalize", "flag", flag="equalize"),
    Change("bias_correction", "flag", flag="bias_correction"),
    _method("calibration_type percentile 0.99995", calibration_type="percentile", max_percentile=0.99995),
    _method("calibration_type percentile 0.9995", calibration_type="percentile", max_percentile=0.9995),
    _method("calibration_type mse", calibration_type="mse", max_percentile=1.0),
    _method("calibration_type kl", calibration_type="kl", max_percentile=1.0),
    _method("calibration_type max", calibration_type="max", max_percentile=1.0),
    _method("per_channel", per_channel=True),
    Change("asymmetric", "flag", flag="asymmetric"),
)
"""Changes of the whole model that cost little or no time on the chip, in the order they are tried."""


def int16(node: str) -> Change:
    """The node's inputs and outputs in int16."""
    return Change(f"int16: {node}", "int16", node=node)


def on_cpu(node: str) -> Change:
    """The node in float on the CPU."""
    return Change(f"CPU: {node}", "cpu", node=node)


def compatible(chosen: tuple[Change, ...], change: Change) -> bool:
    """Whether the change adds anything to those chosen: not twice, and one calibration method only."""
    keys = {k for c in chosen for k, _ in c.keys}
    return change not in chosen and not (change.keys and keys & {k for k, _ in change.keys})


def apply(loaded: LoadedConfig, changes: tuple[Change, ...]) -> LoadedConfig:
    """The configuration with the changes made."""
    calibration: dict[str, Any] = {}
    flags: dict[str, bool] = {}
    nodes: dict[str, NodeSetting] = {}
    cpu = list(loaded.calibration_parameters.run_on_cpu)
    for change in changes:
        calibration.update(change.keys)
        if change.flag is not None:
            flags[change.flag] = True
        if change.kind == "int16" and change.node is not None:
            nodes[change.node] = NodeSetting(node=change.node, input_type="int16", output_type="int16")
        if change.kind == "cpu" and change.node is not None:
            cpu.append(change.node)
    section = loaded.calibration_parameters
    if flags:
        calibration["optimization"] = section.optimization.model_copy(update=flags)
    if len(cpu) > len(section.run_on_cpu):
        calibration["run_on_cpu"] = tuple(dict.fromkeys(cpu))
    update: dict[str, Any] = {"calibration_parameters": section.model_copy(update=calibration)}
    if nodes:
        update["model_parameters"] = _with_nodes(loaded.config, nodes)
    return replace(loaded, config=loaded.config.model_copy(update=update))


def _with_nodes(config: Config, nodes: Mapping[str, NodeSetting]) -> Any:
    kept = tuple(s for s in config.model_parameters.node_info if s.node not in nodes)
    return config.model_parameters.model_copy(update={"node_info": (*kept, *nodes.values())})
