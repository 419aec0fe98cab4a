"""Fixed-point models operator by operator: two of them, or one against the definition of its operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from hbtool.ir import graph
from hbtool.runtime.reference import run_reference
from hbtool.utils.onnx_helper import integer_graph_of
from hbtool.utils.quant_profiler.tables import examples, publish, table


def script_profile(
    model: nn.Module,
    example_inputs: Any,
    out_dir: str | Path | None = None,
    march: Any = None,
    mark_node_func: Any = None,
    compare_with_hbdk_parser: bool = True,
) -> dict[str, np.ndarray]:
    """Every integer value of a fixed-point model, and whether torch gives the bits of the definition.

    Args:
        model: result of `convert_fx`, or its trace.
        example_inputs: one batch.
        out_dir: folder of `script_profile.txt`, None for no file.
        march: accepted for compatibility; the model carries its march.
        mark_node_func: accepted for compatibility.
        compare_with_hbdk_parser: compare the model's outputs with the definition of every operator.
    """
    inputs = examples(example_inputs)
    values = _values(model, inputs)
    lines = [table(((n, list(v.shape), v.dtype) for n, v in values.items()), ("name", "shape", "dtype"))]
    if compare_with_hbdk_parser:
        wanted = _outputs(integer_graph_of(model, inputs), values)
        rows = [(n, bool(np.array_equal(a, b))) for (n, a), b in zip(wanted, _flat(model(*inputs)), strict=True)]
        lines.append(table(rows, ("name", "if equal")))
        same = all(equal for _, equal in rows)
        lines.append(f"Torch run pt output is {'same' if same else 'NOT same'} with hbdk parser.")
    publish("\n\n".join(lines), True, out_dir, "script_profile.txt")
    return values


def compare_script_models(
    model1: nn.Module, model2: nn.Module, example_inputs: Any, march: Any = None
) -> list[tuple[str, bool]]:
    """(value, same bits) for every value that both fixed-point models have; the table is logged."""
    inputs = examples(example_inputs)
    first, second = _values(model1, inputs), _values(model2, inputs)
    rows = [(n, bool(np.array_equal(first[n], second[n]))) for n in first if n in second]
    same = all(equal for _, equal in rows) and set(first) == set(second)
    closing = "All ops in two ScriptModules are same." if same else "The two ScriptModules differ."
    publish(f"{table(rows, ('name', 'if equal'))}\n{closing}", True, None, "")
    return rows


def _values(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    integer = integer_graph_of(model, inputs)
    feeds = {graph.value_name(v): t.detach().cpu().numpy() for v, t in zip(integer.graph.inputs, inputs, strict=True)}
    made = {graph.value_name(v) for n in integer.graph for v in n.outputs}
    return {n: a for n, a in run_reference(integer, feeds, keep=True).items() if n in made}


def _outputs(integer: ir.Model, values: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    return [(graph.value_name(v), values[graph.value_name(v)]) for v in integer.graph.outputs]


def _flat(output: Any) -> list[np.ndarray]:
    if isinstance(output, Tensor):
        return [output.detach().cpu().numpy()]
    if isinstance(output, dict):
        return [a for v in output.values() for a in _flat(v)]
    return [a for v in output for a in _flat(v)]
