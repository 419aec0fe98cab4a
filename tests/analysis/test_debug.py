"""The analyses name a planted layer, and agree with what they are defined as."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from wide_channel import PLANTED, project

from hbtool.analysis.distribution import distributions
from hbtool.analysis.growth import growth
from hbtool.analysis.metrics import METRICS, measure
from hbtool.analysis.readout import Readout
from hbtool.analysis.sensitivity import SensitivityRequest, sensitivity
from hbtool.analysis.stages import STAGES
from hbtool.analysis.subject import Points, partly_quantized
from hbtool.cli.main import run
from hbtool.cli.vendor_lines import translate
from hbtool.errors import UsageError
from hbtool.flows.debug import Analysis, analyse, analyse_files, layers
from hbtool.flows.debug_page import run_all
from hbtool.flows.makertbin import makertbin
from hbtool.flows.talk import Quiet


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(project(tmp_path_factory.mktemp("chain")))


@pytest.mark.parametrize("metric", METRICS)
def test_the_planted_layer_is_first(analysis: Analysis, metric: str) -> None:
    rows = sensitivity(analysis.subject, SensitivityRequest(metric=metric))
    assert rows[0].node == PLANTED
    assert [r.measures.value(metric) for r in rows] == sorted(
        (r.measures.value(metric) for r in rows), reverse=metric not in ("cosine", "sqnr")
    )


def test_leaving_the_planted_layer_float_helps_most(analysis: Analysis) -> None:
    rows = sensitivity(analysis.subject, SensitivityRequest(mode="except", kind="activation"))
    assert rows[0].node == PLANTED


def test_partial_evaluation_is_the_whole_evaluation(analysis: Analysis) -> None:
    """Rows equal what a run of the complete model with one rounded node gives."""
    ranged = analysis.subject.ranged
    points = Points(ranged)
    samples = list(analysis.samples)
    floats, output = Readout(ranged, ["y"]), "y"
    for row in sensitivity(analysis.subject, SensitivityRequest(samples=len(samples))):
        whole = Readout(partly_quantized(ranged, points, row.values), [output])
        cosines = [measure(floats.run(s)[output], whole.run(s)[output]).cosine for s in samples]
        assert row.measures.cosine == pytest.approx(float(np.mean(cosines)), abs=1e-6)


def test_kinds_add_up_and_unknown_names_are_refused(analysis: Analysis) -> None:
    for kind in ("weight", "activation"):
        rows = sensitivity(analysis.subject, SensitivityRequest(kind=kind))  # type: ignore[arg-type]
        assert rows and all(r.kind == kind for r in rows)
    with pytest.raises(UsageError, match="conv9"):
        sensitivity(analysis.subject, SensitivityRequest(nodes=("conv9",)))
    with pytest.raises(UsageError, match="nowhere"):
        sensitivity(analysis.subject, SensitivityRequest(outputs=("nowhere",)))


def test_errors_start_at_the_node_that_is_rounded(analysis: Analysis) -> None:
    rows = growth(analysis.subject, quantize=(PLANTED,))
    before = [r.measures.mse for r in rows if r.node in ("conv0", "conv1")]
    after = [r.measures.mse for r in rows if r.node in ("conv3", "conv4")]
    assert max(before) < 1e-10 and min(after) > 1e-8
    assert all(r.measures.mse < 1e-10 for r in growth(analysis.subject, leave_float=tuple(
        p.node for p in Points(analysis.subject.ranged).find(()))))  # fmt: skip


def test_the_wide_channel_is_remarked(analysis: Analysis) -> None:
    found = {(d.node, d.kind): d for d in distributions(analysis.subject)}
    wide = found[PLANTED, "activation"]
    assert wide.widest_channel == 3 and wide.imbalance > 50 and "channel 3" in wide.remark
    assert found["conv0", "activation"].remark == ""
    assert sum(wide.counts) > 0 and wide.channels is not None and len(wide.channels) == 8


def test_stages(analysis: Analysis) -> None:
    assert min(r.measures.cosine for r in layers(analysis, "original", "optimized")) > 0.999999
    integers = {r.value: r.measures.cosine for r in layers(analysis, "optimized", "quantized")}
    program = {r.value: r.measures.cosine for r in layers(analysis, "optimized", "artifact")}
    assert integers["y"] == pytest.approx(program["y"], abs=1e-9)
    assert integers["y"] < 0.99 < integers["r1"]
    with pytest.raises(UsageError, match="no stage"):
        layers(analysis, "optimized", "later")


STAGE_PAIRS = [(a, b) for i, a in enumerate(STAGES) for b in STAGES[i + 1 :]]


@pytest.mark.parametrize(("first", "second"), [*STAGE_PAIRS, ("artifact", "optimized")])
def test_any_two_stages_compare(analysis: Analysis, first: str, second: str) -> None:
    rows = {r.value: r for r in layers(analysis, first, second)}
    assert "y" in rows
    rounds = {first, second} & {"calibrated", "quantized", "artifact"}
    spoiled = bool(rounds) and bool({first, second} & {"original", "optimized"})
    assert (rows["y"].measures.cosine < 0.99) is spoiled
    if rounds == {"quantized", "artifact"}:
        assert all(r.measures.mse == 0 for r in rows.values())


def test_stage_files_give_the_same_as_the_configuration(tmp_path: Path, analysis: Analysis) -> None:
    made = makertbin(project(tmp_path))
    again = analyse_files(made.files["calibrated_model"], tmp_path / "out" / "calibration_data", "bayes-e")
    first = sensitivity(analysis.subject, SensitivityRequest())
    second = sensitivity(again.subject, SensitivityRequest())
    assert [r.node for r in first] == [r.node for r in second]
    assert [r.measures.cosine for r in first] == pytest.approx([r.measures.cosine for r in second], abs=1e-5)


class Links(HTMLParser):
    """Collects what a page would load, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href") and v]


def test_the_page_opens_offline(tmp_path: Path, analysis: Analysis) -> None:
    result = run_all(analysis, tmp_path / "page.html", Quiet(), samples=2)
    assert result.nodes[0].node == PLANTED
    page = Links()
    page.feed(result.path.read_text())
    assert page.loads == [] and page.tags.count("svg") >= 10 and page.tags.count("table") >= 4
    assert "script" not in page.tags
    text = result.path.read_text()
    assert text.index("channel 3 is") < text.index("<h2>")  # the reason stands on top


@pytest.mark.parametrize(
    "line",
    [
        "get-sensitivity-of-nodes {model} {data} -m ['cosine-similarity','mse'] -n node -d 2 -v True",
        "get-sensitivity-of-nodes {model} {data} -n activation -i ['conv2'] -o y",
        "plot-acc-error {model} {data} -q ['conv2','conv3'] -m cosine-similarity -a True -s out",
        "plot-acc-error {model} {data} -nq [['conv2'],['conv3']]",
        "plot-distribution {model} {data} -n ['conv2']",
        "get-channelwise-data-distribution {model} {data} -n conv2",
        "runall {model} {data} -s {folder} -d 1",
    ],
)
def test_lines_of_the_vendors_debugger(line: str, stage_files: tuple[Path, Path], capsys) -> None:
    model, data = stage_files
    words = line.format(model=model, data=data, folder=model.parent).split(" ")
    assert run(["hmct-debugger", *words]) == 0
    assert PLANTED in capsys.readouterr().out


def test_own_lines_stay_as_they_are() -> None:
    for words in (["debug", "runall", "c.yaml", "-s", "page.html"], ["debug", "sensitivity", "c.yaml", "-v"]):
        assert translate(words) == (words, [])


@pytest.fixture(scope="module")
def stage_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stages")
    made = makertbin(project(folder))
    return made.files["calibrated_model"], folder / "out" / "calibration_data"
