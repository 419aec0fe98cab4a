"""What perf writes: the vendor's field names, a trace that a viewer can nest, pictures, files in their place."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_up import chain, model
from PIL import Image

from hbtool.cli.main import cli, run
from hbtool.cli.perf import cpu_text, layer_text
from hbtool.flows.perf import file_stem, perf
from hbtool.perf.diagram import COLOURS, diagram_svg
from hbtool.perf.layout import place_boxes
from hbtool.perf.page import report_page
from hbtool.perf.picture import diagram_png
from hbtool.perf.report import Report, make_report
from hbtool.perf.report_json import report_json, segment_json
from hbtool.perf.structure import structure_of
from hbtool.perf.trace import trace_json
from hbtool.runtime.artifact import Artifact
from hbtool.target.target import Target

VENDOR_KEYS = {
    "BPU OPs per frame (effective)", "BPU OPs per run (effective)", "BPU PE number", "BPU core number", "BPU march",
    "DDR bytes per frame", "DDR bytes per run", "DDR bytes per second", "DDR megabytes per frame",
    "DDR megabytes per run", "DDR megabytes per second", "FPS", "HBDK version", "compiling options", "frame per run",
    "frame per second", "input features", "interval computing unit utilization",
    "interval computing units utilization", "interval loading bandwidth (megabytes/s)",
    "interval storing bandwidth (megabytes/s)", "interval number", "interval time (ms)", "latency (ms)",
    "latency (ms) by segments", "latency (us)", "layer details", "loaded bytes per frame", "stored bytes per frame",
    "output features",
}  # fmt: skip


def test_segment_json_has_the_vendors_fields(reports: dict[str, Report]) -> None:
    report = reports["good"]
    for segment in report.segments:
        summary = json.loads(json.dumps(segment_json(report, segment)))["summary"]
        assert set(summary) >= VENDOR_KEYS
        assert summary["FPS"] == pytest.approx(1e6 / summary["latency (us)"])
        assert summary["latency (ms)"] == pytest.approx(summary["latency (us)"] / 1e3)
        assert sum(summary["latency (ms) by segments"]) == pytest.approx(summary["latency (ms)"])
        assert summary["DDR bytes per run"] == summary["loaded bytes per run"] + summary["stored bytes per run"]
        assert summary["interval number"] == len(summary["interval computing unit utilization"])
        assert summary["interval number"] == len(summary["interval loading bandwidth (megabytes/s)"])
        header, *rows = summary["layer details"]
        assert header[:4] == ["layer", "ops", "computing cost (no DDR)", "load/store cost"]
        assert [row[0] for row in rows] == [layer.name for layer in segment.program.layers]
        assert rows[0][1] == f"{segment.layers[0].ops:,}" and "," in rows[0][1]
        assert rows[0][2].endswith("% of model)")


def test_total_json(reports: dict[str, Report]) -> None:
    report = reports["good"]
    total = report_json(report)
    assert total["summary"]["latency (us)"] == pytest.approx(report.latency_us)
    assert total["summary"]["DDR bytes per run"] == sum(s["summary"]["DDR bytes per run"] for s in total["segments"])
    assert [p["name"] for p in total["cpu"]] == [p.name for p in report.cpu]
    assert total["warnings"] == list(report.warnings)


def test_without_debug_there_are_no_layer_details(reports: dict[str, Report]) -> None:
    report = reports["slow"]
    found = segment_json(report, report.segments[0])
    assert len(found["summary"]["layer details"]) == 1 and found["hbtool"]["layers"] == []


@pytest.mark.parametrize("name", ["good", "slow", "two"])
def test_trace_slices_of_one_track_do_not_overlap(reports: dict[str, Report], name: str) -> None:
    report = reports[name]
    trace = json.loads(json.dumps(trace_json(report)))
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for e in slices:
        tracks.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
    for track in tracks.values():
        track.sort()
        assert all(after[0] >= before[1] - 2e-3 for before, after in pairwise(track))
    named = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert set(tracks) <= named
    instructions = sum(len(s.program.instructions) for s in report.segments)
    calls = sum(s.program.calls for s in report.segments)
    assert len(slices) == instructions + calls + sum(len(p.nodes) for p in report.cpu)
    loaded = sum(e.get("args", {}).get("loaded bytes", 0) for e in slices)
    assert loaded == report.loaded_bytes


def test_boxes_of_the_layout_neither_overlap_nor_leave_the_picture(reports: dict[str, Report]) -> None:
    placed = structure_of(reports["good"]).placed
    boxes = list(placed.boxes.values())
    for n, (x, y, w, h) in enumerate(boxes):
        assert x >= 0 and y >= 0 and x + w <= placed.width and y + h <= placed.height
        for x2, y2, w2, h2 in boxes[n + 1 :]:
            assert x + w <= x2 + 1e-6 or x2 + w2 <= x + 1e-6 or y + h <= y2 + 1e-6 or y2 + h2 <= y + 1e-6
    assert all(path[0][1] < path[-1][1] for path in placed.paths.values())


def test_a_large_layout_is_quick_and_keeps_order() -> None:
    sizes = {f"n{i}": (80.0, 30.0) for i in range(1500)}
    edges = [(f"n{i}", f"n{j}") for i in range(1500) for j in (i + 1, i + 7) if j < 1500]
    placed = place_boxes(sizes, edges)
    assert all(placed.boxes[a][1] < placed.boxes[b][1] for a, b in edges)


def test_the_diagram_shows_segments_nodes_and_high_precision(reports: dict[str, Report]) -> None:
    report = reports["good"]
    root = ET.fromstring(diagram_svg(structure_of(report), "net", paper=True))
    kinds = [g.get("class") for g in root.iter("{http://www.w3.org/2000/svg}g")]
    assert kinds.count("bpu") == len(report.segments)
    assert kinds.count("cpu") == sum(len(p.nodes) for p in report.cpu)
    precise = sum(t.dtype == "int32" for s in report.segments for t in s.outputs)
    assert kinds.count("precise") == precise > 0
    text = "".join(root.itertext())
    assert "1x3x32x32 int8" in text and "high precision" in text


def test_the_picture_has_the_same_boxes(reports: dict[str, Report]) -> None:
    structure = structure_of(reports["good"])
    image = Image.open(io.BytesIO(diagram_png(structure))).convert("RGB")
    scale = image.width / structure.placed.width
    assert image.height == pytest.approx(structure.placed.height * scale, abs=2)
    for name, item in structure.items.items():
        if item.kind in ("bpu", "cpu"):
            x, y, _, h = structure.placed.boxes[name]
            pixel = image.getpixel((round((x + 5) * scale), round((y + h / 2) * scale)))
            assert pixel == tuple(bytes.fromhex(COLOURS[item.kind][0][1:]))


def test_hostile_names_stay_text(machine: Target) -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\x00\ud800'
    report = make_report(model(chain(3, machine, prefix=evil), machine, name=evil, node=evil))
    structure = structure_of(report)
    ET.fromstring(diagram_svg(structure, evil, paper=False))
    page = report_page(report, structure, file_stem(evil), {"bpu_0": "bpu_0.json"})
    assert page.count("<script") == 2 and "<img" not in page
    assert file_stem("../../etc/passwd") == "_.._etc_passwd"
    assert file_stem("...") == "model"


def test_a_hostile_model_name_stays_in_the_folder(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    named = replace(artifacts["good"], name="../../evil\x1b[31m\ud800<b>")
    files = perf(named, tmp_path / "out", measure=False).files
    assert all(p.resolve().parent.parent == (tmp_path / "out").resolve() for p in files.values())
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_control_characters_do_not_reach_the_terminal(machine: Target) -> None:
    report = make_report(model(chain(3, machine, prefix="a\x1b[31mb\ud800"), machine, node="\x1b]0;title\x07"))
    shown = layer_text(report) + cpu_text(report)
    assert "\x1b" not in shown and "\ud800" not in shown and "\x07" not in shown


def test_command_line(artifact_path: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["perf", str(artifact_path), "-o", str(tmp_path), "-m", "net", "-p"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["Latency", "Work", "DDR", "Memory", "CPU"]
    assert "Layers (they overlap" in result.stdout and "Nodes on the CPU, and why" in result.stdout
    assert "unknown" in result.stdout and "CumSum has no BPU form" in result.stdout
    assert "warning:" in result.stderr
    names = {p.name for p in (tmp_path / "net").iterdir()}
    assert names == {"net.html", "net.svg", "net.png", "net_trace.json"} | {f"net_subgraph_{n}.json" for n in range(4)}


def test_command_line_json(artifact_path: Path, tmp_path: Path) -> None:
    arguments = ["perf", str(artifact_path), "-o", str(tmp_path), "--json", "--quiet", "--no-measure"]
    result = CliRunner().invoke(cli, arguments)
    found = json.loads(result.stdout)
    assert found["model"] == "net" and len(found["segments"]) == 4
    assert Path(found["files"]["html"]).is_file()


def test_same_artifact_same_files(artifact_path: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        perf(artifact_path, tmp_path / folder, measure=False)
    for first in (tmp_path / "a" / "net").iterdir():
        assert first.read_bytes() == (tmp_path / "b" / "net" / first.name).read_bytes(), first.name


def test_what_cannot_be_used_leaves_nothing(
    artifact_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.bin").write_bytes(artifact_path.read_bytes()[:200])
    assert run(["perf", str(tmp_path / "broken.bin"), "-o", str(tmp_path / "out")]) == 1
    assert run(["perf", str(artifact_path), "-m", "other", "-o", str(tmp_path / "out")]) == 2
    assert run(["perf", str(tmp_path / "missing.bin"), "-o", str(tmp_path / "out")]) == 1
    assert "no model called 'other'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
