"""What the configuration asks of single nodes, in terms of the simplified graph: devices first, then int16."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from hbtool.flows.absorbed import absorbers
from hbtool.flows.float_stage import FloatStage
from hbtool.flows.talk import Talk
from hbtool.ir import graph, meta
from hbtool.numerics.qtype import INT8
from hbtool.ops.op import float_op
from hbtool.passes.place import PlacementRequest
from hbtool.passes.settle_int16 import Int16Request, RefusedInt16, settle_int16

EVERY_NODE = "*"


@dataclass(frozen=True)
class TypeWish:
    """int16 for one side of a node of the simplified graph.

    Attributes:
        node: node of the simplified graph.
        named: the name the user wrote (the node may be part of `node` now).
        position: input position, None for all inputs.
        output: the outputs are meant, not inputs.
        origin: the key or flag that asks for it.
    """

    node: str
    named: str
    position: int | None
    output: bool
    origin: str


@dataclass(frozen=True)
class NodeRequests:
    """All requests of a configuration.

    Attributes:
        placement: what is asked of placement.
        wishes: int16 for single nodes, in the order of priority.
        all_int16: int16 wherever it is possible.
        outputs_int16: int16 model outputs.
        refused: requests that no node can fulfil.
    """

    placement: PlacementRequest
    wishes: tuple[TypeWish, ...] = ()
    all_int16: str | None = None
    outputs_int16: str | None = None
    refused: tuple[RefusedInt16, ...] = field(default_factory=tuple)


def node_requests(stage: FloatStage, talk: Talk) -> NodeRequests:
    """Read the requests; names that vanished by simplification mean the node that absorbed them."""
    reader = _Reader(stage, talk)
    flags = stage.loaded.calibration_parameters.optimization
    reader.node_settings()
    reader.kinds()
    reader.quant_config()
    fast = (EVERY_NODE,) if flags.run_fast else ()
    placement = PlacementRequest(
        run_on_cpu=tuple(dict.fromkeys(reader.cpu)),
        run_on_bpu=tuple(dict.fromkeys((*reader.bpu, *fast))),
        kinds_on_bpu=tuple(dict.fromkeys(k.op_type for k in flags.kinds)),
        quantized_outputs=INT8 if flags.model_output or reader.outputs_quantized else None,
    )
    every = "set_all_nodes_int16" if flags.all_nodes_int16 else reader.all_int16
    outputs = "set_model_output_int16" if flags.model_output == "int16" else reader.outputs_int16
    return NodeRequests(placement, tuple(reader.wishes), every, outputs, tuple(reader.refused))


class _Reader:
    def __init__(self, stage: FloatStage, talk: Talk) -> None:
        self.stage = stage
        self.talk = talk
        self.now = absorbers(stage.original, stage.optimized)
        self.cpu: list[str] = []
        self.bpu: list[str] = []
        self.wishes: list[TypeWish] = []
        self.refused: list[RefusedInt16] = []
        self.all_int16: str | None = None
        self.outputs_int16: str | None = None
        self.outputs_quantized = False
        self._told: set[str] = set()

    def node_settings(self) -> None:
        """node_info, set_node_data_type, run_on_cpu and run_on_bpu."""
        for setting in self.stage.check.node_settings.values():
            node = self._node(setting.node, "node_info, run_on_cpu or run_on_bpu")
            if node is None:
                continue
            if setting.device is not None:
                (self.cpu if setting.device == "CPU" else self.bpu).append(node)
            if setting.input_type == "int16":
                self.wishes.append(TypeWish(node, setting.node, None, False, "node_info InputType"))
            for entry in setting.input_types:
                if entry.dtype == "int16":
                    # Positions of a node that is part of another one now mean nothing there.
                    position = entry.index if node == setting.node else None
                    self.wishes.append(
                        TypeWish(node, setting.node, position, False, f"node_info InputType{entry.index}")
                    )
            if setting.output_type == "int16":
                self.wishes.append(TypeWish(node, setting.node, None, True, "node_info OutputType"))

    def kinds(self) -> None:
        """set_{Kind}_{input|output}_{int8|int16}."""
        for kind in self.stage.loaded.calibration_parameters.optimization.kinds:
            for named in self._of_type(kind.op_type):
                node = self._node(named, kind.text)
                if node is None:
                    continue
                if kind.dtype == "int16":
                    self.wishes.append(TypeWish(node, named, None, kind.side == "output", kind.text))

    def quant_config(self) -> None:
        """model_config, op_config, subgraph_config and node_config of quant_config."""
        quant = self.stage.loaded.calibration_parameters.quant_config
        if quant is None:
            return
        whole = quant.whole_model
        if whole.all_node_type in ("int16", "float16", "float32"):
            self.all_int16 = "quant_config all_node_type"
        if whole.all_node_type in ("int4", "float16", "float32"):
            used = "int8" if whole.all_node_type == "int4" else "int16"
            self.talk.warn(
                f"{self.stage.loaded.place('calibration_parameters', 'quant_config')}: quant_config: all_node_type "
                f"{whole.all_node_type}: the BPU computes in int8 and int16 here; {used} is used. Single nodes run in "
                "float on the CPU with node_config: qtype: float32."
            )
        if whole.model_output_type in ("int8", "int16"):
            self.outputs_quantized = True
            self.outputs_int16 = "quant_config model_output_type" if whole.model_output_type == "int16" else None
        for rule in quant.op_config:
            for named in self._of_type(rule.name):
                self._quant_rule(named, rule.qtype, rule.input_types, f"quant_config op_config {rule.name}")
        for group in quant.subgraph_config:
            for named in self._between(group.inputs, group.outputs):
                self._quant_rule(named, group.qtype, (), f"quant_config subgraph_config {group.name}")
        for rule in quant.node_config:
            for named in self.stage.check.quant_nodes.get(rule.name, ()):
                self._quant_rule(named, rule.qtype, rule.input_types, "quant_config node_config")

    def _quant_rule(self, named: str, qtype: str | None, input_types: tuple[tuple[int, str], ...], origin: str) -> None:
        node = self._node(named, origin)
        if node is None:
            return
        if qtype in ("float16", "float32"):
            self.cpu.append(node)
        elif qtype == "int16":
            self.wishes.append(TypeWish(node, named, None, False, origin))
        elif qtype == "int4":
            self.refused.append(RefusedInt16(named, "inputs", origin, "the BPU's arithmetic here has no int4"))
        for position, dtype in input_types:
            if dtype == "int16":
                self.wishes.append(TypeWish(node, named, position, False, f"{origin} input{position}"))

    def _of_type(self, op_type: str) -> Iterator[str]:
        for node in self.stage.original.graph:
            if node.op_type == op_type:
                yield graph.node_name(node)

    def _between(self, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Iterator[str]:
        """The nodes on the way from the outputs of a group back to its inputs."""
        values = {v.name: v for n in self.stage.original.graph for v in n.outputs}
        queue = [values[name] for name in outputs if name in values]
        seen: dict[str, None] = {}
        while queue:
            producer = queue.pop().producer()
            if producer is None or graph.node_name(producer) in seen:
                continue
            seen[graph.node_name(producer)] = None
            queue += [v for v in producer.inputs if v is not None and v.name not in inputs]
        yield from reversed(seen)

    def _node(self, named: str, key: str) -> str | None:
        """The node of the simplified graph that stands for a name of the user's model."""
        node = self.now.get(named)
        if node == named or named in self._told:
            return node
        self._told.add(named)
        if node is not None:
            self.talk.info(f"{key}: {named} is part of {node} after simplification; the request is for that node")
        elif named in self.now:
            self.talk.warn(f"{key}: {named} was simplified away (it changes nothing or is constant); no effect")
        else:
            self.talk.warn(f"{key}: no node of the model is called {named!r}; no effect")
        return node


def settle_types(
    placed: ir.Model, stage: FloatStage, requests: NodeRequests
) -> tuple[frozenset[str], tuple[RefusedInt16, ...]]:
    """Names of the values to carry in int16, and the table of refused requests."""
    nodes = {graph.node_name(n): n for n in placed.graph}
    asked: list[Int16Request] = []
    refused = list(requests.refused)
    for wish in requests.wishes:
        node = nodes[wish.node]
        if not meta.on_bpu(node):
            reason = f"{wish.node} runs on the CPU in float"
            refused.append(RefusedInt16(wish.named, "output" if wish.output else "input", wish.origin, reason))
            continue
        if (why := _missing_input(node, wish)) is not None:
            refused.append(RefusedInt16(wish.named, f"input {wish.position}", wish.origin, why))
            continue
        asked += _requests(node, wish)
    if requests.outputs_int16 is not None:
        asked += [
            Int16Request(v, graph.value_name(v), "model output", requests.outputs_int16)
            for v in placed.graph.outputs
            if (producer := v.producer()) is not None and meta.on_bpu(producer)
        ]
    if requests.all_int16 is not None:
        asked += _everything(placed, requests.all_int16)
    granted, turned_down = settle_int16(placed, stage.family, asked)
    return granted, (*refused, *turned_down)


def _requests(node: ir.Node, wish: TypeWish) -> Iterator[Int16Request]:
    op = float_op(node)
    assert op is not None, "only known operators are placed on the BPU"
    if wish.output:
        for index, value in enumerate(node.outputs):
            slot = "output" if len(node.outputs) == 1 else f"output {index}"
            yield Int16Request(value, wish.named, slot, wish.origin)
        return
    for index in op.quantized_inputs(node):
        read = node.inputs[index]
        if read is not None and graph.constant(read) is None and wish.position in (None, index):
            yield Int16Request(read, wish.named, f"input {index}", wish.origin)


def _missing_input(node: ir.Node, wish: TypeWish) -> str | None:
    """Why a request for one input of a node means nothing."""
    op = float_op(node)
    if wish.output or wish.position is None or op is None:
        return None
    if wish.position >= len(node.inputs):
        return f"{graph.node_name(node)} has inputs 0..{len(node.inputs) - 1} only"
    read = node.inputs[wish.position]
    if wish.position not in op.quantized_inputs(node) or read is None or graph.constant(read) is not None:
        return f"input {wish.position} of {graph.node_name(node)} is no feature map"
    return None


def _everything(placed: ir.Model, origin: str) -> Iterator[Int16Request]:
    """Every value that the BPU reads or writes, once."""
    values: dict[ir.Value, tuple[str, str]] = {}
    for node in placed.graph:
        op = float_op(node)
        if not meta.on_bpu(node) or op is None:
            continue
        for index in op.quantized_inputs(node):
            value = node.inputs[index]
            if value is not None and graph.constant(value) is None:
                values.setdefault(value, (graph.node_name(node), f"input {index}"))
        if meta.fused_into(node) is None and not any(
            meta.fused_into(n) for v in node.outputs for n in graph.consumers(v)
        ):
            for value in node.outputs:
                values.setdefault(value, (graph.node_name(node), "output"))
    for value, (name, slot) in values.items():
        yield Int16Request(value, name, slot, origin)
