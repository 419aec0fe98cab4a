"""The page of operators: current, and complete as a reader needs it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.ops.op import FloatOp, float_ops

ROOT = Path(__file__).parents[2]
OPERATORS = [op for (domain, _), op in float_ops().items() if domain == ""]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("operators_page", ROOT / "docs" / "generate_operators_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(generator: ModuleType) -> None:
    text = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert text == generator.page(), "run `python docs/generate_operators_page.py`"


@pytest.mark.parametrize("op", dict.fromkeys(OPERATORS), ids=lambda op: type(op).__name__)
def test_every_operator_says_how_it_computes_and_what_it_needs(op: FloatOp) -> None:
    assert op.rule_text
    assert op.error_steps > 0
    for condition in op.constraints():
        for family in condition.limits:
            sentence = condition.sentence(family)
            assert sentence and "{" not in sentence and not sentence.endswith(".")


@pytest.mark.parametrize(("domain", "op_type"), [key for key in float_ops() if key[0] == ""])
def test_every_operator_has_samples_of_its_kind(domain: str, op_type: str) -> None:
    op = float_ops()[domain, op_type]
    names = [s.name for s in op.samples()]
    assert len(set(names)) == len(names)
    assert op_type in {s.op_type for s in op.samples()}
