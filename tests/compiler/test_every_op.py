"""Every operator x every sample, compiled and simulated: the bits of the definition, with much memory and little."""

from __future__ import annotations

import pytest
from one_op import feeds_of, lower_sample
from run_compiled import check_bits, small

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool import target as targets
from hbtool.compiler.options import CompileOptions
from hbtool.numerics.qtype import INT8, INT16
from hbtool.ops.op import Sample, float_ops
from hbtool.passes.attach_ranges import RangeOptions

SAMPLES = [
    pytest.param(sample, id=f"{type(op).__name__}-{sample.name}")
    for op in dict.fromkeys(float_ops().values())
    for sample in op.samples()
]
TARGETS = {
    "O0": (targets.load("bayes-e"), CompileOptions("O0")),
    "O3": (targets.load("bayes-e"), CompileOptions("O3")),
    "O3, 4 KiB": (small("bayes-e", 4096), CompileOptions("O3")),
    "O0, 1 KiB": (small("bayes-e", 1024), CompileOptions("O0")),
    "O3, two cores": (small("bernoulli2", 2048), CompileOptions("O3", core_num=2)),
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_compiled_operator_gives_the_bits_of_the_definition(sample: Sample) -> None:
    for name in ("int32 or int8", "int16"):
        wide = RangeOptions(int16_values={"x0", "x1", "x2", "y0", "y1"}, output_type=INT16)
        options = RangeOptions(output_type=INT8) if name == "int32 or int8" else wide
        _, integer, _ = lower_sample(sample, options=options)
        for target, compile_options in TARGETS.values():
            check_bits(integer, feeds_of(integer, sample), target, compile_options)
