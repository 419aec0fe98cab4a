"""Real configuration files, as people wrote them, drive makertbin on small models with the inputs they name."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from small_models import settle_in

from hbtool.config import load_config
from hbtool.config.schema import SECTIONS
from hbtool.config.section import keys_of
from hbtool.errors import ConfigError, HbError
from hbtool.flows.checker import CheckResult, check
from hbtool.flows.makertbin import BuildResult, makertbin
from hbtool.flows.verify import verify

FOLDER = Path(os.environ.get("HBTOOL_SHARED") or Path(__file__).parents[2] / ".." / "shared") / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))
KEYS = {name for section in SECTIONS.values() for name in keys_of(section)} | set(SECTIONS)

pytestmark = [
    pytest.mark.skipif(not FILES, reason="the folder shared/configs is not beside the checkout"),
    pytest.mark.real,
]


def signature(path: Path) -> tuple[object, ...]:
    """What distinguishes configurations for the road: files that differ in names and numbers only are one kind."""
    try:
        config = load_config(path).config
    except ConfigError:
        return ("refused",)
    inputs, calibration, model = config.input_parameters, config.calibration_parameters, config.model_parameters
    return (
        config.march,
        inputs.input_type_rt,
        inputs.input_type_train,
        calibration.calibration_type,
        calibration.optimization.flags,
        bool(model.node_info),
        model.remove_node_type,
    )


def one_of_each_kind() -> list[Path]:
    found: dict[object, Path] = {}
    for path in FILES:
        found.setdefault(signature(path), path)
    return list(found.values())


def line_at(where: str) -> str:
    """The line of a file that a message points at (empty where it points at no line)."""
    file, _, number = where.rpartition(":")
    if not number.isdigit() or not Path(file).is_file():
        return ""
    return Path(file).read_text(encoding="utf-8").splitlines()[int(number) - 1]


def check_refusal(error: ConfigError, folder: Path) -> None:
    assert error.where
    named = set(re.findall(r"\w+", error.message)) | set(re.findall(r"\w+", line_at(error.where)))
    assert named & KEYS, f"neither message nor line names a key: {error}"
    assert error.hint
    assert not list(folder.glob("out/*.bin")), "a refused configuration leaves no artifact"


def build_and_verify(path: Path, folder: Path) -> None:
    try:
        loaded = settle_in(load_config(path), folder)
        result = makertbin(loaded)
    except ConfigError as error:
        check_refusal(error, folder)
        return
    assert result.nodes
    checked = verify(result.artifact_path)
    assert checked.passed, checked.differences
    assert {d.executor for d in checked.differences} == {"simulator", "quantized ONNX in onnxruntime"}


@pytest.mark.parametrize("path", one_of_each_kind()[:12], ids=lambda path: path.stem[-50:])
def test_a_file_of_each_kind_gives_a_verified_artifact_or_names_the_key(path: Path, tmp_path: Path) -> None:
    build_and_verify(path, tmp_path)


def compare_with_checker(path: Path, folder: Path) -> None:
    loaded = settle_in(load_config(path), folder)
    try:
        made = makertbin(loaded)
    except HbError as error:
        with pytest.raises(type(error)):
            check(loaded)
        return
    checked = check(loaded)

    def rows(result: BuildResult | CheckResult) -> list[tuple[str, ...]]:
        return [(row.node, row.device, row.subgraph, row.type, row.dtype) for row in result.nodes]

    assert rows(checked) == rows(made)
    assert [node.name for node in checked.removed] == [node.name for node in made.removed]
    assert checked.refused == made.refused


@pytest.mark.parametrize("path", one_of_each_kind()[12:15], ids=lambda path: path.stem[-50:])
def test_the_checkers_table_is_that_of_makertbin(path: Path, tmp_path: Path) -> None:
    compare_with_checker(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", one_of_each_kind(), ids=lambda path: path.stem[-50:])
def test_the_checkers_table_is_that_of_makertbin_for_every_kind(path: Path, tmp_path: Path) -> None:
    try:
        load_config(path)
    except ConfigError:
        pytest.skip("the file is refused")
    compare_with_checker(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[-50:])
def test_every_file_gives_a_verified_artifact_or_names_the_key(path: Path, tmp_path: Path) -> None:
    build_and_verify(path, tmp_path)
