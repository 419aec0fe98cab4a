"""The same input gives the same bytes wherever its objects happen to lie in the computer's memory."""

from __future__ import annotations

import random

from random_network import random_network
from run_compiled import small

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.artifact.program_json import write_program
from hbtool.compiler.compile import compile_model
from hbtool.compiler.layers import Tensor
from hbtool.compiler.options import CompileOptions


def test_bytes_do_not_depend_on_where_objects_lie() -> None:
    rng = random.Random(0)
    integer, _ = random_network(16, 24)
    target = small("bayes-e", 30_000)
    texts, holes = set(), []
    for _ in range(4):
        # Tensors that come and go leave holes: the next ones get addresses in no order, and so do sets of them.
        holes += [Tensor(0, "", (), "int8") for _ in range(400)]
        holes = rng.sample(holes, len(holes) // 2)
        compiled = compile_model(integer, target, CompileOptions("O2"))
        texts.add(tuple((write_program(c.program), c.weights) for c in compiled))
    assert len(texts) == 1
