"""The onnx package's own node tests through hbtool (see tools/onnx_node_tests.py)."""

from __future__ import annotations

import collections
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PER_OPERATOR = 2


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("onnx_node_tests", ROOT / "tools" / "onnx_node_tests.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_some_cases_of_every_operator_pass(tool: ModuleType) -> None:
    taken: collections.Counter[str] = collections.Counter()
    outcomes = []
    for case in tool.cases():
        # Function bodies are many nodes each: the long run has them.
        if case.op_type != "(function bodies)" and taken[case.op_type] < PER_OPERATOR:
            taken[case.op_type] += 1
            outcomes.append(tool.run_case(case))
    failed = [f"{o.case.name}: {o.verdict}" for o in outcomes if o.failed]
    assert failed == []
    assert sum(o.device == "BPU" and o.verdict == "passed" for o in outcomes) > 80
    assert sum(o.device == "CPU" and o.verdict == "passed" for o in outcomes) > 80


@pytest.mark.parametrize("family", ["bernoulli2", "bayes", "bayes-e", "nash"])
def test_products_of_vectors_pass_on_every_family(tool: ModuleType, family: str) -> None:
    outcomes = [tool.run_case(case, family) for case in tool.cases() if case.op_type == "MatMul"]
    assert len(outcomes) > 10
    assert [f"{o.case.name}: {o.verdict}" for o in outcomes if o.failed] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bernoulli2", "bayes", "bayes-e", "nash"])
def test_all_cases_pass_on_every_family(tool: ModuleType, family: str) -> None:
    outcomes = [tool.run_case(case, family) for case in tool.cases()]
    print(tool.table(outcomes))
    assert [f"{o.case.name}: {o.verdict}" for o in outcomes if o.failed] == []
    assert sum(o.verdict == "passed" for o in outcomes) > 1000


def test_the_page_lists_no_failure() -> None:
    text = (ROOT / "docs" / "onnx_node_tests.md").read_text(encoding="utf-8")
    last = text.strip().splitlines()[-1].split("|")
    assert last[1].strip() == "**all**" and last[5].strip() == "**0**"
