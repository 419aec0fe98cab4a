"""Cuts what lies outside the compiled program (post-processing marked with `wrap(skip_compile=True)`) off a model.

before: quant -> conv -> dequant -> DetectionPostProcess -> output
after: quant -> conv -> dequant -> output (the program); its results and the inputs -> DetectionPostProcess (the tail)
"""

from __future__ import annotations

from torch import fx, nn

from hbtool.quantization.observed import ObservedGraphModule
from hbtool.quantization.tracing import QuantGraphModule
from hbtool.utils.fx_helper import skips_compile


def split_outside(model: nn.Module) -> tuple[nn.Module, QuantGraphModule | None]:
    """(what is compiled, what follows it in float); (model, None) where nothing is outside.

    The tail takes the program's results, then the model's inputs.
    """
    if not isinstance(model, ObservedGraphModule):
        return model, None
    modules = dict(model.named_modules())
    outside: dict[fx.Node, None] = {}
    for node in model.graph.nodes:
        behind = node.op != "output" and any(n in outside for n in node.all_input_nodes)
        if behind or skips_compile(node, modules):
            outside[node] = None
    if not outside:
        return model, None
    output = next(n for n in model.graph.nodes if n.op == "output")
    borders: dict[fx.Node, None] = {}
    for node in (*outside, output):
        for source in node.all_input_nodes:
            if source not in outside and source.op not in ("placeholder", "get_attr"):
                borders[source] = None
    name = model._graph_class_name()
    program = ObservedGraphModule(model, _program(model.graph, outside, list(borders)), name)
    tail = QuantGraphModule(model, _tail(model.graph, outside, list(borders), output), name)
    return program, tail


def _program(graph: fx.Graph, outside: dict[fx.Node, None], borders: list[fx.Node]) -> fx.Graph:
    made = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in outside and node.op != "output":
            copied[node] = made.node_copy(node, copied.__getitem__)
    made.output(tuple(copied[n] for n in borders))
    return made


def _tail(graph: fx.Graph, outside: dict[fx.Node, None], borders: list[fx.Node], output: fx.Node) -> fx.Graph:
    made = fx.Graph()
    copied = {node: made.placeholder(f"result_{i}") for i, node in enumerate(borders)}
    for node in graph.nodes:
        if node.op == "placeholder" or node.op == "get_attr" or node in outside:
            copied[node] = made.node_copy(node, copied.__getitem__)
    made.output(fx.map_arg(output.args[0], copied.__getitem__))
    made.lint()
    return made
