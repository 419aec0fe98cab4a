"""Every option of the compiler changes something that can be seen in the program."""

from __future__ import annotations

import resource
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import pytest
from random_network import random_network
from run_compiled import small

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.artifact.program import Program
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.perf.timeline import timeline
from hbtool.target.target import Target

FIGURES = {
    "matrix_outputs": 32,
    "matrix_inputs": 8,
    "matrix_width": 8,
    "depthwise_macs": 144.0,
    "vector_ops": 41.6,
    "vector_channels": 1,
    "dma_latency_cycles": 2000,
    "ddr_bytes_per_second": 6.3e9,
    "instruction_cycles": 184,
    "launch_us": 67.5,
}
TARGET = replace(small("bayes-e", 12_000, 2), **FIGURES)  # type: ignore[arg-type] - a refit must not move what is compared


@pytest.fixture(scope="module")
def network() -> ir.Model:
    return random_network(29, 12)[0]


def _program(network: ir.Model, target: Target = TARGET, **options: Any) -> Program:
    return compile_model(network, target, CompileOptions(**options))[0].program


def _us(program: Program) -> float:
    return timeline(program, TARGET).total_us


def _moved(program: Program) -> int:
    return timeline(program, TARGET).ddr_bytes


def test_optimize_level(network: ir.Model) -> None:
    o0, o1, o2, o3 = (_program(network, optimize_level=f"O{n}") for n in range(4))
    assert _us(o0) > _us(o1) > _us(o3) and _us(o2) > _us(o3)
    assert _moved(o0) > _moved(o1)
    assert o1.instructions != o2.instructions


def test_o3_is_never_slower_than_o0_even_where_next_to_nothing_fits_on_chip() -> None:
    network, _ = random_network(18, 12)
    assert _us(_program(network, optimize_level="O1")) > _us(_program(network, optimize_level="O0"))
    assert _us(_program(network, optimize_level="O3")) <= _us(_program(network, optimize_level="O0"))


def test_compile_mode(network: ir.Model) -> None:
    fast, lean = (_program(network, optimize_level="O3", compile_mode=mode) for mode in ("latency", "bandwidth"))
    assert _us(fast) < _us(lean)
    assert _moved(lean) < _moved(fast)


def test_balance_factor(network: ir.Model) -> None:
    def weighed(factor: int) -> Program:
        return _program(network, optimize_level="O3", compile_mode="balance", balance_factor=factor)

    assert _us(weighed(100)) < _us(weighed(0))
    assert _moved(weighed(0)) < _moved(weighed(100))
    assert _us(weighed(100)) == _us(_program(network, optimize_level="O3"))


def test_max_time_per_fc(network: ir.Model) -> None:
    whole = _program(network)
    limit = int(_us(whole) / 4)
    cut = _program(network, max_time_per_fc=limit)
    assert whole.calls == 1 < cut.calls
    assert max(timeline(cut, TARGET).call_us) < max(timeline(whole, TARGET).call_us)


def test_core_num(network: ir.Model) -> None:
    one, two = (_program(network, core_num=n) for n in (1, 2))
    assert {i.core for i in one.instructions} == {0}
    assert {i.core for i in two.instructions if i.engine == "matrix"} == {0, 1}
    assert two.onchip_bytes == 2 * one.onchip_bytes
    assert _us(two) < _us(one)


def test_jobs(network: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbtool.compiler.compile.WORTH_PROCESSES", 1)
    alone = _program(network, optimize_level="O3")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    together = _program(network, optimize_level="O3", jobs=2)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > before, "nothing ran in other processes"
    assert together == alone
