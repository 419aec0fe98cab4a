"""Holds a configuration against what is known of the model, before any calibration starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from hbtool.config.inputs import InputConfig, ModelInput, resolve_inputs
from hbtool.config.node_info import NodeSetting
from hbtool.config.notes import ConfigNote, Notebook, did_you_mean
from hbtool.config.schema import LoadedConfig
from hbtool.errors import ConfigError, ModelError

MAX_OUTPUTS = 32
"""More outputs than this no artifact has (source: reference notes, interactions 7)."""
TAIL_TYPES = ("Relu", "Clip", "Softmax", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Transpose")
"""What run_on_bpu may name on bernoulli2; Clip is how ONNX writes Relu6."""
_HEAVY_TYPES = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "QLinearConv"})
_HEAVY_TYPES |= {"Einsum", "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention"}
_INT8_SECOND_INPUT = {"bayes-e": "MatMul"}
"""march → the op type whose second input is never int16 (seen in published logs)."""
_SHOWN = 6
_BORDER_ENDINGS = ("_HzQuantize", "_HzDequantize")


@dataclass(frozen=True)
class NodeFact:
    """One node; ``module_path`` is the torch module it came from, ``outputs`` the tensors it writes."""

    name: str
    op_type: str
    module_path: str | None = None
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """What a configuration can be held against: inputs, names of outputs, nodes."""

    inputs: tuple[ModelInput, ...]
    outputs: tuple[str, ...] = ()
    nodes: tuple[NodeFact, ...] = ()


@dataclass(frozen=True)
class RefusedType:
    """An int16 request that the march cannot fulfil; int8 is used."""

    node: str
    slot: str
    reason: str


@dataclass(frozen=True)
class ModelCheck:
    """A configuration in terms of the model: globs and module paths replaced by node names.

    ``node_settings`` merges node_info with run_on_cpu and run_on_bpu, node_info winning; the optimization flags come
    after it and stay in the configuration. ``quant_nodes`` says what each name in quant_config's node_config means.
    ``warnings`` are the ones that a load could not yet make.
    """

    inputs: tuple[InputConfig, ...]
    node_settings: Mapping[str, NodeSetting] = field(default_factory=dict)
    output_nodes: tuple[str, ...] = ()
    remove_node_name: tuple[str, ...] = ()
    quant_nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: tuple[RefusedType, ...] = ()
    warnings: tuple[ConfigNote, ...] = ()


def check_against_model(loaded: LoadedConfig, facts: ModelFacts) -> ModelCheck:
    """Resolve inputs and node names against the model.

    Raises:
        ConfigError: what cannot be done with this model; with ``strict`` also names that match no node.
        ModelError: the model has nothing for the BPU's array.
    """
    book = Notebook(loaded.strict)
    inputs = resolve_inputs(loaded, facts.inputs, book)
    matcher = _Matcher(loaded, facts, book)
    output_nodes = matcher.names("model_parameters", "output_nodes")
    _check_outputs(loaded, facts, output_nodes)
    removed = matcher.names("model_parameters", "remove_node_name")
    settings = _node_settings(loaded, matcher)
    _check_run_on_bpu(loaded, facts, matcher.names("calibration_parameters", "run_on_bpu"))
    _check_op_types(loaded, facts, book)
    quant_nodes = _quant_nodes(loaded, facts, matcher, book)
    refused = _refused(loaded, facts, settings, book)
    if facts.nodes and not _HEAVY_TYPES & {node.op_type for node in facts.nodes}:
        raise ModelError(
            "the model has no convolution and no matrix product, so the BPU's array has nothing to compute",
            where=str(loaded.place("model_parameters", "onnx_model")),
            hint="Name the model that holds the network's layers; this one runs in onnxruntime as it is.",
        )
    notes = tuple(note for note in book.notes if note not in loaded.warnings)
    return ModelCheck(inputs, settings, output_nodes, removed, quant_nodes, refused, notes)


class _Matcher:
    """Finds the nodes that a name, tensor name, module path or glob means."""

    def __init__(self, loaded: LoadedConfig, facts: ModelFacts, book: Notebook) -> None:
        self.loaded, self.facts, self.book = loaded, facts, book
        self.by_name: dict[str, list[str]] = {}
        for node in facts.nodes:
            for name in dict.fromkeys((node.name, node.module_path, *node.outputs)):
                if name:
                    self.by_name.setdefault(name, []).append(node.name)

    def find(self, pattern: str, section: str, key: str) -> tuple[str, ...]:
        """The node names that ``pattern`` means; a loud note where it means none."""
        exact = [node.name for node in self.facts.nodes if node.name == pattern]
        found = exact or self.by_name.get(pattern, [])
        if not found and any(sign in pattern for sign in "*?["):
            found = [name for other, names in self.by_name.items() if fnmatchcase(other, pattern) for name in names]
        if not found and key == "remove_node_name" and self._at_border(pattern):
            return (pattern,)
        if not found:
            guess = did_you_mean(pattern, self.by_name, 3) or "The table of hbtool checker lists the names."
            message = f"{key}: no node of the model is called {pattern!r}; it has no effect."
            self.book.add(self.loaded.place(section, key), f"{section}.{key}", message, "node", guess)
        return tuple(dict.fromkeys(found))

    def _at_border(self, name: str) -> bool:
        """Whether a name is that of a Quantize or Dequantize of the finished model, beside a tensor of this one."""
        tensors = {entry.name for entry in self.facts.inputs} | set(self.facts.outputs) | set(self.by_name)
        return any(name.endswith(ending) and name.removesuffix(ending) in tensors for ending in _BORDER_ENDINGS)

    def names(self, section: str, key: str) -> tuple[str, ...]:
        """Every node that a key with a list of names means, in the order of the list."""
        group = self.loaded.model_parameters if section == "model_parameters" else self.loaded.calibration_parameters
        found = [name for pattern in getattr(group, key) for name in self.find(pattern, section, key)]
        return tuple(dict.fromkeys(found))


def _check_outputs(loaded: LoadedConfig, facts: ModelFacts, output_nodes: Sequence[str]) -> None:
    count = len(facts.outputs)
    if output_nodes:
        widths = {node.name: max(1, len(node.outputs)) for node in facts.nodes}
        count = sum(widths[name] for name in output_nodes)
    if count > MAX_OUTPUTS:
        key = "output_nodes" if output_nodes else "onnx_model"
        raise ConfigError(
            f"{key}: {count} outputs; an artifact has at most {MAX_OUTPUTS}.",
            where=str(loaded.place("model_parameters", key)),
            hint="Concatenate outputs inside the model, or name fewer with output_nodes.",
        )


def _node_settings(loaded: LoadedConfig, matcher: _Matcher) -> dict[str, NodeSetting]:
    merged: dict[str, dict[str, object]] = {}
    wanted = loaded.model_parameters.node_info
    old_only = (
        "model_parameters.set_node_data_type" in loaded.places and "model_parameters.node_info" not in loaded.places
    )
    key = "set_node_data_type" if old_only else "node_info"
    known = {node.name for node in matcher.facts.nodes}
    # Names beat globs and module paths, whatever their order in the file.
    for setting in sorted(wanted, key=lambda setting: setting.node in known):
        stated = setting.model_dump(exclude={"node"}, exclude_defaults=True)
        for name in matcher.find(setting.node, "model_parameters", key):
            merged.setdefault(name, {"node": name}).update(stated)
    for named, device in (("run_on_cpu", "CPU"), ("run_on_bpu", "BPU")):
        for name in matcher.names("calibration_parameters", named):
            merged.setdefault(name, {"node": name}).setdefault("device", device)
    return {name: NodeSetting.model_validate(fields) for name, fields in merged.items()}


def _check_run_on_bpu(loaded: LoadedConfig, facts: ModelFacts, names: Sequence[str]) -> None:
    if loaded.config.march != "bernoulli2":
        return
    types = {node.name: node.op_type for node in facts.nodes}
    for name in names:
        if types[name] not in TAIL_TYPES:
            raise ConfigError(
                f"run_on_bpu: {name!r} is a {types[name]}, which bernoulli2 cannot be asked to run on the BPU.",
                where=str(loaded.place("calibration_parameters", "run_on_bpu")),
                hint="Name a Relu, Softmax or pooling at the tail, or a Transpose behind a BPU operator.",
            )


def _check_op_types(loaded: LoadedConfig, facts: ModelFacts, book: Notebook) -> None:
    """Op types that flags and quant_config name, against those in the model (exact spelling)."""
    types = list(dict.fromkeys(node.op_type for node in facts.nodes))
    if not types:
        return
    quant = loaded.calibration_parameters.quant_config
    asked = [("optimization", kind.text, kind.op_type) for kind in loaded.calibration_parameters.optimization.kinds]
    asked += [("quant_config", rule.name, rule.name) for rule in (quant.op_config if quant else ())]
    for key, text, op_type in asked:
        if op_type not in types:
            place = loaded.place("calibration_parameters", key)
            message = f"{key}: {text}: the model has no {op_type} node; it has no effect."
            book.add(place, f"calibration_parameters.{key}", message, "node", did_you_mean(op_type, types) or None)


def _quant_nodes(
    loaded: LoadedConfig, facts: ModelFacts, matcher: _Matcher, book: Notebook
) -> dict[str, tuple[str, ...]]:
    """The nodes that quant_config names, and a loud note for every tensor that the model does not have."""
    quant = loaded.calibration_parameters.quant_config
    if quant is None:
        return {}
    section, key = "calibration_parameters", "quant_config"
    tensors = [tensor for node in facts.nodes for tensor in node.outputs] + [entry.name for entry in facts.inputs]
    for group in quant.subgraph_config:
        for tensor in (*group.inputs, *group.outputs):
            if facts.nodes and tensor not in tensors:
                message = f"{key}: {group.name}: the model has no tensor {tensor!r}; it has no effect."
                guess = did_you_mean(tensor, tensors, 3) or None
                book.add(loaded.place(section, key), f"{section}.{key}", message, "node", guess)
    return {rule.name: matcher.find(rule.name, section, key) for rule in quant.node_config}


def _refused(
    loaded: LoadedConfig, facts: ModelFacts, settings: Mapping[str, NodeSetting], book: Notebook
) -> tuple[RefusedType, ...]:
    """int16 requests that the march turns into int8, in one list and one note per key."""
    march = loaded.config.march
    op_type = _INT8_SECOND_INPUT.get(march)
    flags = loaded.calibration_parameters.optimization
    by_flag = flags.all_nodes_int16 or (op_type is not None and flags.kind_dtype(op_type, "input") == "int16")
    reason = f"the second input of a {op_type} is int8 on {march}"
    found: list[RefusedType] = []
    by_key: dict[str, list[str]] = {}
    for node in facts.nodes:
        if node.op_type != op_type:
            continue
        own = settings[node.name].input_dtype(1) if node.name in settings else None
        if own == "int16" or (own is None and by_flag):
            found.append(RefusedType(node.name, "InputType1", reason))
            by_key.setdefault("node_info" if own else "optimization", []).append(node.name)
    for key, names in by_key.items():
        section = "model_parameters" if key == "node_info" else "calibration_parameters"
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        message = f"{key}: {reason}; int16 falls back to int8 for {shown}."
        book.add(loaded.place(section, key), f"{section}.{key}", message, "value")
    return tuple(found)
