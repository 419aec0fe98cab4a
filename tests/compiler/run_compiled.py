"""Compiles and simulates every BPU segment of an INTEGER graph; everything else runs by definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from hbtool import target as targets
from hbtool.artifact.program import Program, SegmentProgram
from hbtool.artifact.program_json import read_program, write_program
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.compiler.segments import split_segments
from hbtool.runtime.reference import run_reference
from hbtool.runtime.simulator import simulate
from hbtool.target.target import Target


def small(march: str, onchip_bytes: int, cores: int | None = None) -> Target:
    """A march with little on-chip memory."""
    target = targets.load(march)
    return replace(target, onchip_bytes=onchip_bytes, cores=cores or target.cores)


def check_bits(
    integer: ir.Model, feeds: dict[str, np.ndarray], target: Target, options: CompileOptions
) -> tuple[Program, ...]:
    """Compile, simulate with the reference's values at every segment's entry, compare every segment's outputs."""
    values = run_reference(integer, feeds, keep=True)
    programs = compile_model(integer, target, options)
    segments = [s for s in split_segments(integer) if s.device == "BPU"]
    assert len(programs) == len(segments)
    for compiled, segment in zip(programs, segments, strict=True):
        text = write_program(compiled.program)
        program = read_program(text)
        assert write_program(program) == text
        result = simulate(
            SegmentProgram(program, compiled.weights), target, {v.name: values[v.name] for v in segment.inputs}
        )
        assert set(result.outputs) == {v.name for v in segment.outputs}
        for name, array in result.outputs.items():
            np.testing.assert_array_equal(array, values[name], err_msg=name)
        assert result.highest_byte <= program.onchip_peak_bytes <= target.onchip_bytes * options.core_num
    return tuple(c.program for c in programs)
