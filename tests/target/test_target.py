from __future__ import annotations

import re
from pathlib import Path

import pytest

from hbtool import target as targets
from hbtool.errors import ConfigError
from hbtool.target import Job


@pytest.mark.parametrize("march", targets.MARCHES)
def test_every_figure_of_every_march_has_a_source(march: str) -> None:
    target = targets.load(march)
    assert target.march == march
    assert all(text.strip() for text in target.sources.values())
    assert target.multiplier_bits == (15 if march.startswith("bayes") else 24)


@pytest.mark.parametrize("march", targets.MARCHES)
def test_a_figure_called_fitted_has_its_points_in_the_latency_page(march: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "latency.md").read_text(encoding="utf-8")
    parts = [part for part in page.split("\n## ") if part.splitlines()[0].endswith(f"({march})")]
    rows = [line for part in parts for line in part.splitlines() if line.startswith("| ")]
    fitted = sum("| fitted |" in row for row in rows)
    for name, source in targets.load(march).sources.items():
        found = re.search(r"fitted (?:by \S+ )?to (\d+) ", source)
        assert found is None or int(found[1]) == fitted, f"{march}: {name}"
        assert found or not source.startswith("fitted to published"), f"{march}: {name} does not say to what"
    if any("starting guess" in source for source in targets.load(march).sources.values()):
        assert fitted == 0, f"{march} is fitted, but calls figures starting guesses"


def test_feature_maps_take_the_smaller_of_the_two_paddings() -> None:
    target = targets.load("bayes-e")
    assert target.layout((1, 3, 20, 20), 1).bytes == 20 * 24 * 4
    assert target.layout((1, 256, 20, 20), 1).bytes == 20 * 20 * 256
    assert target.layout((1, 1000), 1).bytes == 1000


def test_padding_to_the_array_costs_cycles() -> None:
    target = targets.load("bayes-e")
    full = Job(
        "matrix", rows=target.matrix_width, repeats=4, outputs=target.matrix_outputs, inputs=target.matrix_inputs
    )
    one_more = Job("matrix", rows=target.matrix_width + 1, repeats=4, outputs=full.outputs, inputs=full.inputs)
    fixed = target.instruction_cycles
    assert target.cycles(full) - fixed == 4
    assert target.cycles(one_more) - fixed == 8
    assert target.cycles(Job("matrix", full.rows, 4, full.outputs, full.inputs, bits=16)) - fixed == 8


def test_a_file_that_states_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: bayes-e\nonchip_bytes: {value: 65536, source: my board}\n")
    target = targets.load(str(path))
    assert (target.onchip_bytes, target.cores) == (65536, 1)
    assert target.sources["onchip_bytes"] == "my board"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base: bayes-x\n", "bayes-x"),
        ("base: bayes-e\nclok_hz: {value: 1, source: x}\n", "clok_hz"),
        ("base: bayes-e\ncores: {value: 0, source: x}\n", "cores"),
        ("base: bayes-e\ncores: {value: true, source: x}\n", "cores"),
        ("base: bayes-e\nclock_hz: {value: .nan, source: x}\n", "clock_hz"),
        ("base: bayes-e\ncores: 2\n", "source"),
        ("base: bayes-e\nlayouts: {value: [[8]], source: x}\n", "layouts"),
        ("march: {value: x, source: y}\n", "missing"),
        ("[1, 2", "read"),
        ("- 1\n", "mapping"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        targets.load(str(path))


def test_an_unknown_march_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="bernoulli2"):
        targets.load("bayes-z")


def test_few_input_channels_take_several_positions_of_the_kernel_row_at_once() -> None:
    target = targets.load("nash-e")
    plain = Job("matrix", 64, 64, 16, 3, taps=36)
    folded = Job("matrix", 64, 64, 16, 3, taps=36, row_taps=6)
    fixed = target.instruction_cycles
    assert 6 * (target.cycles(folded) - fixed) == target.cycles(plain) - fixed  # 6 x 4 channels fit into its inputs
    full = target.matrix_inputs
    assert target.cycles(Job("matrix", 8, 8, 16, full, taps=9, row_taps=3)) == target.cycles(
        Job("matrix", 8, 8, 16, full, taps=9)
    )


def test_few_channels_leave_lanes_of_the_vector_unit_empty() -> None:
    target = targets.load("bayes-e")
    lanes = target.vector_channels
    full = target.cycles(Job("vector", vector_ops=lanes * 4096, channels=lanes)) - target.instruction_cycles
    two = target.cycles(Job("vector", vector_ops=lanes * 4096, channels=2)) - target.instruction_cycles
    assert two == pytest.approx(full * lanes / 2, rel=1e-3)
    assert target.cycles(Job("vector", vector_ops=lanes * 4096)) - target.instruction_cycles == full


def test_a_misspelled_figure_is_guessed_and_the_form_is_shown(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text('base: bayes-e\nonchip_byte: {value: 1048576, source: "mine"}\n')
    with pytest.raises(ConfigError, match=r"unknown: onchip_byte\).*Did you mean onchip_bytes"):
        targets.load(str(tmp_path / "mine.yaml"))
    (tmp_path / "bare.yaml").write_text("base: bayes-e\nonchip_bytes: 1048576\n")
    with pytest.raises(ConfigError, match=r'For example onchip_bytes: \{value: 1048576, source: "measured"\}'):
        targets.load(str(tmp_path / "bare.yaml"))
