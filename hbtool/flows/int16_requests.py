"""Which values the configuration wants in int16."""

from __future__ import annotations

import onnx_ir as ir

from hbtool.config.model_check import ModelCheck
from hbtool.config.schema import LoadedConfig
from hbtool.flows.talk import Talk
from hbtool.ir import graph, meta
from hbtool.ops.op import float_op


def int16_values(placed: ir.Model, check: ModelCheck, loaded: LoadedConfig, talk: Talk) -> frozenset[str]:
    """Names of the values to carry in int16: from node_info and the optimization flags.

    A request for a value that no BPU node reads or writes changes nothing.
    """
    for refused in check.refused:
        talk.warn(f"{refused.node}: int16 of {refused.slot} is not possible, int8 is used ({refused.reason})")
    flags = loaded.calibration_parameters.optimization
    wanted: set[str] = set()
    refused_slots = {(r.node, r.slot) for r in check.refused}
    for node in placed.graph:
        op = float_op(node)
        if not meta.on_bpu(node) or op is None:
            continue
        name = graph.node_name(node)
        setting = check.node_settings.get(name)
        for index in op.quantized_inputs(node):
            value = node.inputs[index]
            by_node = setting is not None and setting.input_dtype(index) == "int16"
            by_kind = flags.kind_dtype(node.op_type, "input") == "int16"
            asked = by_node or by_kind or flags.all_nodes_int16
            if value is not None and asked and (name, f"InputType{index}") not in refused_slots:
                wanted.add(graph.value_name(value))
        by_node = setting is not None and setting.output_type == "int16"
        if by_node or flags.kind_dtype(node.op_type, "output") == "int16" or flags.all_nodes_int16:
            wanted.update(graph.value_name(v) for v in node.outputs)
    return frozenset(wanted)
