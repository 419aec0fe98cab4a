"""Runs an INTEGER graph on torch tensors: the kernels of `hbtool.ops`, with `TorchMath` as their arithmetic.

The whole program is one torch operator, `hbtool::integer_program(inputs, program)`, whose second operand holds the
serialized graph: `torch.jit.trace`, `torch.export` and `torch.jit.save` carry it along as a constant, and a compiler
finds in a traced module exactly what that module computes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor

import hbtool.ops  # noqa: F401 - registers every operator
from hbtool.compiler.segments import split_segments
from hbtool.errors import DataError
from hbtool.ir import graph
from hbtool.ir.onnx_session import make_session
from hbtool.ops.op import integer_op, is_integer, read_attributes
from hbtool.passes.extract import extract_nodes
from hbtool.passes.to_standard_onnx import to_standard_onnx
from hbtool.quantization.torch_math import TorchMath


class Program:
    """An INTEGER graph, ready to run; immutable.

    Args:
        model: INTEGER graph; float nodes run in onnxruntime.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.math = TorchMath()
        self.steps = [(s, all(is_integer(n) for n in s.nodes)) for s in split_segments(model)]
        self.sessions: dict[int, Any] = {}
        self.constants: dict[tuple[str, str], Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def to_bytes(self) -> bytes:
        """The graph in its serialized form."""
        data: bytes = ir.to_proto(self.model).SerializeToString()
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Program:
        """The program of a serialized graph."""
        return cls(ir.from_proto(onnx.load_model_from_string(data)))

    def run(self, *args: Tensor) -> list[Tensor]:
        """The graph's outputs for inputs in graph order.

        Raises:
            DataError: number, shape or type of the inputs is not the graph's.
        """
        values = self.run_all(*args)
        return [
            self._value(v, values, args[0].device if args else torch.device("cpu")) for v in self.model.graph.outputs
        ]

    def run_all(self, *args: Tensor) -> dict[ir.Value, Tensor]:
        """Every value of the graph."""
        inputs = self.model.graph.inputs
        if len(args) != len(inputs):
            raise DataError(f"the model has {len(inputs)} inputs, {len(args)} were given.")
        values: dict[ir.Value, Tensor] = {}
        for value, arg in zip(inputs, args, strict=True):
            if tuple(arg.shape) != graph.static_shape(value):
                raise DataError(
                    f"input {value.name} has shape {tuple(arg.shape)}, the program was made for "
                    f"{graph.static_shape(value)}.",
                    hint="Convert or trace with an example of this shape.",
                )
            values[value] = arg.detach()
        device = args[0].device if args else torch.device("cpu")
        for number, (segment, integer) in enumerate(self.steps):
            if integer:
                for node in segment.nodes:
                    operands = [None if v is None else self._value(v, values, device) for v in node.inputs]
                    result = integer_op(node).kernel(self.math, read_attributes(node), *operands)
                    results = result if isinstance(result, tuple) else (result,)
                    values.update(zip(node.outputs, results, strict=True))
            else:
                self._run_float(number, segment, values, device)
        return values

    def _run_float(self, number: int, segment: Any, values: dict[ir.Value, Tensor], device: torch.device) -> None:
        if number not in self.sessions:
            part = extract_nodes(self.model, segment.nodes, segment.inputs, segment.outputs)
            self.sessions[number] = make_session(to_standard_onnx(part))
        feeds = {graph.value_name(v): values[v].cpu().numpy() for v in segment.inputs}
        for value, array in zip(segment.outputs, self.sessions[number].run(None, feeds), strict=True):
            values[value] = torch.from_numpy(np.array(array)).to(device)

    def _value(self, value: ir.Value, values: dict[ir.Value, Tensor], device: torch.device) -> Tensor:
        if value in values:
            return values[value]
        key = (graph.value_name(value), str(device))
        if key not in self.constants:
            array = graph.constant(value)
            assert array is not None, "every value is computed or constant"
            self.constants[key] = torch.from_numpy(np.array(array)).to(device)
        return self.constants[key]


_CACHE: OrderedDict[bytes, Program] = OrderedDict()
_CACHED_PROGRAMS = 8


def program_of(data: Tensor) -> Program:
    """The program in a uint8 tensor; the last few are kept ready."""
    raw = data.cpu().numpy().tobytes()
    key = hashlib.blake2b(raw).digest()
    if key not in _CACHE:
        _CACHE[key] = Program.from_bytes(raw)
        if len(_CACHE) > _CACHED_PROGRAMS:
            _CACHE.popitem(last=False)
    _CACHE.move_to_end(key)
    return _CACHE[key]


@torch.library.custom_op("hbtool::integer_program", mutates_args=())
def integer_program(inputs: list[Tensor], program: Tensor) -> list[Tensor]:
    """Run a serialized INTEGER graph; `program` is its uint8 bytes."""
    outputs = program_of(program).run(*inputs)
    # A custom operator must not hand its inputs back.
    return [o.clone() for o in outputs]


@integer_program.register_fake
def _(inputs: list[Tensor], program: Tensor) -> list[Tensor]:
    raise NotImplementedError(
        "the shapes of an integer program follow from its data; export it with export_quantized_onnx"
    )
