"""Turns a float model into one that answers with statistics of its values instead of its outputs.

The reductions are nodes of the same onnxruntime graph: whole activations never leave onnxruntime, its memory reuse
stays what it was, and its two threads do the work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from hbtool.errors import ModelError

Sample = Mapping[str, NDArray[Any]]


class Samples(Protocol):
    """A sized stream of samples that can be iterated again."""

    def __len__(self) -> int:
        """Number of samples."""

    def __iter__(self) -> Iterator[Sample]:
        """The samples in order."""


THREADS = 2


class Instrument:
    """A copy of a float model to which reductions of its values are added as outputs.

    Args:
        model: a float model with static shapes; it is not changed.
        keep_outputs: whether the model's own outputs stay.
    """

    def __init__(self, model: ir.Model, keep_outputs: bool = False) -> None:
        self._proto = ir.to_proto(model)
        self._values = float_values(model)
        self._names = _Names(self._proto.graph)
        self._own_outputs = [o.name for o in self._proto.graph.output]
        self._nodes = {n.name: n for n in self._proto.graph.node}
        self._opset = next(o.version for o in self._proto.opset_import if o.domain in ("", "ai.onnx"))
        if not keep_outputs:
            del self._proto.graph.output[:]

    def shape(self, name: str) -> tuple[int, ...]:
        """The static shape of a float32 value.

        Raises:
            ModelError: there is no such value, it is not float32, or a dimension is free.
        """
        value = self._values.get(name)
        if value is None:
            raise ModelError(f"no value of the float model is called {name!r}", where=name)
        if value.dtype not in (None, ir.DataType.FLOAT):
            raise ModelError(f"holds {value.dtype}, only float32 values are calibrated", where=name)
        if value.shape is None or not all(isinstance(d, int) for d in value.shape.dims):
            raise ModelError(f"its shape is not fully known ({value.shape})", where=name, hint="Set input_shape.")
        return tuple(int(d) for d in value.shape.dims)  # type: ignore[arg-type]

    def own_float_outputs(self) -> list[str]:
        """Names of the model's outputs that hold float32."""
        values = [self._values.get(name) for name in self._own_outputs]
        return [str(v.name) for v in values if v is not None and v.dtype in (None, ir.DataType.FLOAT)]

    def reduce(self, op_type: str, value: str, axes: Sequence[int] | None) -> str:
        """Add a Reduce… node over `axes` (None for all), which stay with size 1; returns the result's name."""
        output = self._names.fresh(f"{value}/{op_type}")
        if axes is None:
            return self.node(op_type, [value], output, keepdims=1)
        if not axes:
            return self.node("Identity", [value], output)
        if self._opset >= 18:
            return self.node(op_type, [value, self.constant(np.asarray(axes, np.int64))], output, keepdims=1)
        return self.node(op_type, [value], output, axes=list(axes), keepdims=1)

    def maximum(self, value: str, axes: Sequence[int] | None) -> str:
        """Add the maximum over `axes`, as `reduce` does.

        Over all axes behind the second it is a GlobalMaxPool, the one reduction that onnxruntime also has for its
        blocked convolution layout: the value is then not copied back for it.
        """
        rank = len(self.shape(value))
        if axes is not None and rank > 2 and tuple(axes) == tuple(range(2, rank)):
            return self.node("GlobalMaxPool", [value], self._names.fresh(f"{value}/max"))
        return self.reduce("ReduceMax", value, axes)

    def copied(self, value: str) -> str:
        """Add a copy under a name of its own (a graph input may not be an output as well)."""
        return self.node("Identity", [value], self._names.fresh(f"{value}/copy"))

    def zeros(self, count: int) -> str:
        """Add a constant of zeros `[count]`; returns its name."""
        return self._float_constant(np.zeros(count, np.float32))

    def joined(self, values: Sequence[str]) -> str:
        """Add the concatenation of float values, each flattened, `[n]`; returns its name."""
        if not values:
            return self.node("Identity", [self._float_constant(np.empty(0, np.float32))], self._names.fresh("joined"))
        return self.node("Concat", [self._flat(value) for value in values], self._names.fresh("joined"), axis=0)

    def _flat(self, value: str) -> str:
        """Add the value as `[n]`; returns the result's name."""
        return self.node("Reshape", [value, self.constant(np.array([-1]))], self._names.fresh(f"{value}/flat"))

    def rows(self, value: str, count: int) -> str:
        """Add the value as a matrix of `count` rows; returns the result's name."""
        shape = self.constant(np.array([count, -1]))
        return self.node("Reshape", [value, shape], self._names.fresh(f"{value}/rows"))

    def columns(self, matrix: str, start: str, end: str, step: int) -> str:
        """Add every `step`-th column of a matrix from `start` to before `end` (int64 values `[1]`)."""
        bounds = [start, end, self.constant(np.array([1])), self.constant(np.array([step]))]
        return self.node("Slice", [matrix, *bounds], self._names.fresh(f"{matrix}/columns"))

    def numbers(self, hint: str, count: int, type_: int) -> tuple[str, list[str]]:
        """Add an input `[count]` of an ONNX element type; returns its name, and those of its elements, each `[1]`."""
        name = self._names.fresh(hint)
        self._proto.graph.input.append(onnx.helper.make_tensor_value_info(name, type_, [count]))
        parts = [self._names.fresh(f"{hint}/{index}") for index in range(count)]
        if parts:
            sizes = self.constant(np.ones(count, np.int64))
            self._proto.graph.node.append(
                onnx.helper.make_node("Split", [name, sizes], parts, name=f"{name}/split", axis=0)
            )
        return name, parts

    def quantized(self, value: str, scale: str, zero_point: str) -> str:
        """Add the value rounded to int8, as float again (scale `[1]` float32, zero point `[1]` int64)."""
        zero = self.node("Cast", [zero_point], self._names.fresh(f"{value}/zero"), to=onnx.TensorProto.INT8)
        integers = self.node("QuantizeLinear", [value, scale, zero], self._names.fresh(f"{value}/integers"))
        return self.node("DequantizeLinear", [integers, scale, zero], self._names.fresh(f"{value}/quantized"))

    def again(self, node_name: str, renamed: Mapping[str, str]) -> dict[str, str]:
        """Add a copy of a node that reads `renamed` values instead; returns its outputs' old and new names."""
        copy = onnx.NodeProto()
        copy.CopyFrom(self._nodes[node_name])
        copy.name = self._names.fresh(node_name)
        outputs = {name: self._names.fresh(name) for name in copy.output if name}
        copy.input[:] = [renamed.get(name, name) for name in copy.input]
        copy.output[:] = [outputs.get(name, "") for name in copy.output]
        self._proto.graph.node.append(copy)
        return outputs

    def one_quantized(self, names: Sequence[str]) -> tuple[str, str, str]:
        """Let one of the values be rounded to int8 where it is read, which one the feeds say.

        Returns:
            The inputs to feed: number of the value among `names` (int64 `[1]`, -1 for none), scale (float32 `[1]`),
            zero point (int8 `[1]`).
        """
        types = {"which": onnx.TensorProto.INT64, "scale": onnx.TensorProto.FLOAT, "zero_point": onnx.TensorProto.INT8}
        inputs = {hint: self._names.fresh(hint) for hint in types}
        fed = {v.name for v in self._proto.graph.input}
        self._proto.graph.input.extend(onnx.helper.make_tensor_value_info(inputs[h], t, [1]) for h, t in types.items())
        before = list(self._proto.graph.node)
        del self._proto.graph.node[:]
        renamed = {name: self._names.fresh(name) for name in names}
        choices = {name: self._choice(number, name, renamed, fed, inputs) for number, name in enumerate(names)}
        for name in names:
            if name in fed:
                self._proto.graph.node.extend(choices[name])
        for node in before:
            node.input[:] = [renamed[n] if n in fed and n in renamed else n for n in node.input]
            made = [n for n in node.output if n in renamed]
            node.output[:] = [renamed.get(n, n) for n in node.output]
            self._proto.graph.node.append(node)
            for name in made:
                self._proto.graph.node.extend(choices[name])
        return inputs["which"], inputs["scale"], inputs["zero_point"]

    def _choice(
        self, number: int, name: str, renamed: Mapping[str, str], fed: Collection[str], inputs: Mapping[str, str]
    ) -> list[onnx.NodeProto]:
        """Nodes that pass a value on, rounded to int8 if it is the one that the feeds name."""
        source, target = (name, renamed[name]) if name in fed else (renamed[name], name)
        prefix = self._names.fresh(f"{name}/choice")
        meaning = [inputs["scale"], inputs["zero_point"]]
        then = [
            onnx.helper.make_node("QuantizeLinear", [source, *meaning], [f"{prefix}/integers"]),
            onnx.helper.make_node("DequantizeLinear", [f"{prefix}/integers", *meaning], [f"{prefix}/then"]),
        ]
        otherwise = [onnx.helper.make_node("Identity", [source], [f"{prefix}/else"])]
        branches = {
            f"{kind}_branch": onnx.helper.make_graph(
                nodes,
                f"{prefix}/{kind}",
                [],
                [onnx.helper.make_tensor_value_info(f"{prefix}/{kind}", onnx.TensorProto.FLOAT, None)],
            )
            for kind, nodes in (("then", then), ("else", otherwise))
        }
        wanted = f"{prefix}/number"
        return [
            onnx.helper.make_node("Equal", [inputs["which"], self.constant(np.array([number]))], [wanted], name=wanted),
            onnx.helper.make_node("If", [wanted], [target], name=prefix, **branches),
        ]

    def difference(self, left: str, right: str) -> str:
        """Add left - right; returns its name."""
        return self.node("Sub", [left, right], self._names.fresh(f"{left}/difference"))

    def _float_constant(self, array: NDArray[np.float32]) -> str:
        name = self._names.fresh("constant")
        self._proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        self._proto.graph.node.append(onnx.helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def constant(self, array: NDArray[np.int64]) -> str:
        """Add an int64 constant; returns its name."""
        name = self._names.fresh("constant")
        self._proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.int64), name))
        return name

    def output(self, name: str) -> str:
        """Make a float value an output of the model; returns its name."""
        self._proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        return name

    def session(self, threads: int = THREADS) -> onnxruntime.InferenceSession:
        """The instrumented model, ready to run."""
        return float_session(self._proto, threads)


class _Names:
    """Value names that the graph does not use yet."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = {o for n in graph.node for o in n.output} | {n.name for n in graph.node}
        self._taken |= {v.name for v in (*graph.input, *graph.output)} | {t.name for t in graph.initializer}

    def fresh(self, hint: str) -> str:
        name, count = f"hbtool/{hint}", 0
        while name in self._taken:
            count += 1
            name = f"hbtool/{hint}/{count}"
        self._taken.add(name)
        return name


def float_values(model: ir.Model) -> dict[str, ir.Value]:
    """The values of the main graph that are computed or fed at run time, by name."""
    fed = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    made = [v for node in model.graph for v in node.outputs]
    return {v.name: v for v in (*fed, *made) if v.name}


def float_session(proto: onnx.ModelProto, threads: int = THREADS) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU that says nothing below an error.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Runs what reads a value soon after what makes it, so that its memory is free again early: with the default order
    # a histogram pass takes a fifth longer.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    try:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise ModelError(f"onnxruntime cannot load the float model: {error}") from error


def run(
    session: onnxruntime.InferenceSession, outputs: Sequence[str] | None, feeds: dict[str, Any], where: str
) -> list[NDArray[Any]]:
    """The named outputs (None: all) of one run.

    Raises:
        ModelError: the model fails on this sample (`where`).
    """
    try:
        return list(session.run(outputs, feeds))
    except Exception as error:  # as above
        raise ModelError(f"the float model cannot run on this sample: {error}", where=where) from error


def float_feeds(sample: Sample, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The inputs that the model takes, out of a sample that may hold more."""
    return {name: sample[name] for name in names if name in sample}


def spread(samples: Samples, count: int) -> list[Sample]:
    """`count` samples evenly over all of them (all where there are fewer)."""
    chosen = {round(i) for i in np.linspace(0, len(samples) - 1, min(count, len(samples)))}
    return [sample for number, sample in enumerate(samples) if number in chosen]
