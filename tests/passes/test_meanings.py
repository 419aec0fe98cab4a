"""Where scales meet: Concat and Requantize, the tail of the model, the devices of nodes that only move values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from float_graphs import Case, float_graph, integers, weights

from hbtool.ir import graph, meta
from hbtool.numerics.ranges import Range
from hbtool.ops.op import Family
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges, values_to_observe
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.place import INT16_FAMILIES, place

CONV = {"w": weights(4, 4, 1, 1), "w8": weights(4, 8, 1, 1)}


def integer_graph(text: str, family: Family = "bayes-e", **constants: np.ndarray) -> ir.Model:
    """Lower a graph with another range for every value."""
    model = float_graph(Case("", text, "", {**CONV, **constants}))
    place(model, family)
    fuse_clamps(model)
    ranges = {name: Range((-1.0 - i,), (1.0 + i,)) for i, name in enumerate(values_to_observe(model))}
    attach_ranges(model, ranges, RangeOptions(int16_tail=family in INT16_FAMILIES))
    return lower_to_integer(model, family, 15)


def requantized(model: ir.Model) -> list[str]:
    return [graph.node_name(n).removesuffix("_Requantize") for n in model.graph if n.op_type == "Requantize"]


def on_cpu(text: str, family: Family, **constants: np.ndarray) -> list[str]:
    model = float_graph(Case("", text, "", {**CONV, **constants}))
    place(model, family)
    return [n.op_type for n in model.graph if not meta.on_bpu(n)]


def types(model: ir.Model, op_type: str) -> list[tuple[str, str]]:
    """Input and output type of the integer nodes of a kind."""
    found = []
    for node in model.graph:
        if node.op_type == op_type and node.inputs[0] is not None:
            pair = meta.qparams(node.inputs[0]), meta.qparams(node.outputs[0])
            found.append((pair[0].type.name if pair[0] else "", pair[1].type.name if pair[1] else ""))
    return found


def test_producers_that_feed_the_concat_alone_write_at_its_scale() -> None:
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
        a = Conv(x, w)  b = Conv(a, w)  c = Conv(a, w)  d = Concat<axis=1>(b, c)  y = Conv(d, w8) }"""
    assert requantized(integer_graph(text)) == []


def test_a_value_that_another_node_computes_with_is_requantized() -> None:
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] z) {
        a = Conv(x, w)  b = Conv(a, w)  d = Concat<axis=1>(a, b)  y = Conv(d, w8)  z = Conv(b, w) }"""
    assert requantized(integer_graph(text)) == ["a", "b"]


def test_a_value_that_is_only_moved_elsewhere_is_written_at_the_concats_scale() -> None:
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,4,4] z) {
        a = Conv(x, w)  b = Conv(a, w)  c = Conv(a, w)  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
        d = Concat<axis=1>(b, c)  y = Conv(d, w8)  z = Conv(p, w) }"""
    model = integer_graph(text)
    assert requantized(model) == []
    joined = next(n for n in model.graph if n.op_type == "Concat")
    pooled = next(n for n in model.graph if n.op_type == "MaxPool")
    assert meta.qparams(pooled.outputs[0]) == meta.qparams(joined.outputs[0])


def test_parts_of_a_split_keep_its_scale_and_are_requantized() -> None:
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
        a = Conv(x, w8in)  b, c = Split<axis=1, num_outputs=2>(a)  e = Conv(c, w)
        d = Concat<axis=1>(b, e)  y = Conv(d, w8) }"""
    assert requantized(integer_graph(text, w8in=weights(8, 4, 1, 1))) == ["b"]


def test_a_value_and_its_pools_are_joined_as_they_are() -> None:
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
        a = Conv(x, w)  p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)  d = Concat<axis=1>(a, p)
        y = Conv(d, w8) }"""
    assert requantized(integer_graph(text)) == []


TAIL = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv(x, w)  b = Conv(a, w)  y = %s(b) }"


def test_a_table_at_the_tail_reads_and_writes_int16_where_the_family_can() -> None:
    assert types(integer_graph(TAIL % "Sigmoid"), "SegmentTable") == [("int16", "int16")]
    assert on_cpu(TAIL % "Sigmoid", "bayes") == ["Sigmoid"]


def test_a_layout_change_behind_the_tail_changes_nothing() -> None:
    text = """g (float[1,4,8,8] x) => (float[1,8,8,4] y) {
        a = Conv(x, w)  b = Conv(a, w)  s = Sigmoid(b)  y = Transpose<perm=[0,2,3,1]>(s) }"""
    assert types(integer_graph(text), "SegmentTable") == [("int16", "int16")]
    plain = "g (float[1,4,8,8] x) => (float[1,8,8,4] y) { a = Conv(x, w)  y = Transpose<perm=[0,2,3,1]>(a) }"
    assert types(integer_graph(plain), "Conv") == [("int8", "int32")]


def test_a_clamp_at_the_tail_stays_in_float() -> None:
    for family in ("bayes", "bayes-e"):
        assert on_cpu(TAIL % "Relu", family) == ["Relu"]


def test_nodes_that_only_move_values_stay_on_the_cpu_at_the_ends() -> None:
    head = """g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
        p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)  y = Conv(p, w) }"""
    assert on_cpu(head, "bayes-e") == ["MaxPool"]
    tail = "g (float[1,4,8,8] x) => (float[1,256] y) { a = Conv(x, w)  y = Reshape(a, s) }"
    assert on_cpu(tail, "bayes-e", s=integers(1, 256)) == ["Reshape"]


LSTM = """g (float[1,1,4] x, float[1,1,3] h, float[1,1,3] c) => (float[1,1,1,3] y, float[1,1,3] hn, float[1,1,3] cn) {
    y, hn, cn = LSTM<hidden_size=3>(x, w_in, w_back, , , h, c) }"""


def test_a_state_that_goes_round_is_int16_where_the_family_has_it() -> None:
    text, given = LSTM, {"w_in": weights(1, 12, 4), "w_back": weights(1, 12, 3)}
    model = integer_graph(text, "bayes-e", **given)
    types_of = {v.name: meta.qparams(v.producer().inputs[0]).type.name for v in model.graph.outputs}
    assert types_of == {"y": "int8", "hn": "int16", "cn": "int16"}
    entered = {n.inputs[0].name: meta.qparams(n.outputs[0]).type.name for n in model.graph if n.op_type == "Quantize"}
    assert entered == {"x": "int8", "h": "int16", "c": "int16"}


def test_outputs_without_a_name_are_not_asked_for() -> None:
    text = """g (float[1,1,4] x) => (float[1,1,3] hn) { , hn = LSTM<hidden_size=3>(x, w_in, w_back) }"""
    model = integer_graph(text, "bayes-e", w_in=weights(1, 12, 4), w_back=weights(1, 12, 3))
    assert [v.name for v in model.graph.outputs] == ["hn"]


def test_what_the_bpu_asks_of_a_recurrent_operator() -> None:
    given = {"w_in": weights(1, 12, 4), "w_back": weights(1, 12, 3)}
    batch = """g (float[2,3,4] x) => (float[2,1,3,3] y) { y = LSTM<hidden_size=3>(x, w_in, w_back) }"""
    assert on_cpu(batch, "bayes-e", **given) == ["LSTM"]
    assert on_cpu(batch, "nash", **given) == []
    assert on_cpu(LSTM, "bernoulli2", **given) == ["LSTM"]
    short = """g (float[2,1,4] x) => (float[2,1,1,3] y) { y = LSTM<hidden_size=3>(x, w_in, w_back, , n) }"""
    assert on_cpu(short, "bayes-e", **given, n=integers(1)) == ["LSTM"]
    assert on_cpu(short, "bayes-e", **given, n=integers(2)) == []
