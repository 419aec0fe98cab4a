"""MobileNetV2 with one channel a hundred times too wide: debug names the layer, tune brings the accuracy back."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hbtool.analysis.sensitivity import SensitivityRequest, sensitivity
from hbtool.cli.main import cli
from hbtool.config import load_config
from hbtool.flows.debug import analyse
from hbtool.flows.makertbin import makertbin
from hbtool.runtime import Session

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def tool(checkout: Path) -> Iterator[dict[str, Any]]:
    """Return what tools/planted_mobilenet.py defines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout / "tools"))
        yield runpy.run_path(str(checkout / "tools" / "planted_mobilenet.py"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, shared_dir: Path, tool: dict[str, Any]) -> Path:
    folder = shared_dir / "real" / "imagenet"
    if not folder.is_dir():
        pytest.skip("the ImageNet pictures are not in the folder of real models")
    path: Path = tool["write_project"](tmp_path_factory.mktemp("planted"), folder)
    return path


def test_debug_names_the_planted_layer_first(config: Path, tool: dict[str, Any]) -> None:
    rows = sensitivity(analyse(load_config(config)).subject, SensitivityRequest(samples=2))
    assert len(rows) > 50
    assert rows[0].node == tool["PLANTED"]
    assert rows[0].measures.cosine < 0.5 < rows[1].measures.cosine


@pytest.mark.slow
def test_tune_restores_top_1_and_writes_what_it_measured(config: Path) -> None:
    top_1: Callable[[Any], float] = runpy.run_path(str(config.with_name("metric.py")))["top_1"]
    line = ["tune", str(config), "--metric", f"{config.with_name('metric.py')}:top_1", "--max-drop", "0.5"]
    done = CliRunner().invoke(cli, [*line, "--json", "-q"], standalone_mode=False)
    assert done.return_value == 0, done.output
    result = json.loads(done.stdout)
    chosen = result["chosen"]
    assert result["base"]["metric"] < result["float_metric"] - 20
    assert chosen["metric"] >= result["float_metric"] - 0.5
    assert "equalize" in chosen["changes"] and set(result["prices_us"]) == set(chosen["changes"])
    assert chosen["latency_us"] < 1.5 * result["base"]["latency_us"]
    built = makertbin(load_config(result["config"]))
    assert top_1(Session(built.artifact)) == pytest.approx(chosen["metric"], abs=1e-6)
