"""Simulator = host runtime = stock onnxruntime on real networks: one in every run, more where slow tests run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hbtool import target as targets

SMALL = ("yolov8n-cls", "mobilenetv4_conv_small", "repghostnet_100", "levit_128")


@pytest.fixture
def tools(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(checkout / "tools"))


def _differences(shared_dir: Path, name: str, march: str) -> tuple[str, ...]:
    from integer_networks import integer_network
    from simulator_sweep import random_feeds, sweep

    target = replace(targets.load(march), cores=2)
    path = shared_dir / "architectures" / f"{name}.onnx"
    if not path.exists():
        pytest.skip("the folder of architectures is not beside the checkout")
    model = integer_network(path, target.family, target.multiplier_bits)
    swept = sweep(name, model, random_feeds(model), target)
    assert swept.programs >= 2
    return swept.differences


@pytest.mark.usefixtures("tools")
def test_a_network_keeps_its_bits_in_every_mode(shared_dir: Path) -> None:
    assert not _differences(shared_dir, "yolov8n-cls", "nash-e")


@pytest.mark.slow
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("march", ["bayes-e", "nash-e"])
@pytest.mark.parametrize("name", SMALL)
def test_networks_keep_their_bits_in_every_mode(shared_dir: Path, name: str, march: str) -> None:
    assert not _differences(shared_dir, name, march)
