"""What single keys change in the artifact: the batch, on-chip memory, padding, the machine."""

from __future__ import annotations

import numpy as np
import pytest
from flow_project import Build, Listening

from hbtool.errors import ConfigError, DataError
from hbtool.flows.perf import report_of
from hbtool.flows.verify import verify
from hbtool.runtime import Session
from hbtool.runtime.artifact import load_artifact

RNG = np.random.default_rng(4)


def image() -> np.ndarray:
    return RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("key", ["separate_batch: True", "separate_name: x"])
def test_a_separated_batch_takes_one_input_per_image(build: Build, key: str) -> None:
    name, value = key.split(": ")
    whole = Session(build("nash-e", input__input_batch="3").artifact_path)
    result = build("nash-e", input__input_batch="3", **{f"input__{name}": value})
    parted = Session(load_artifact(result.artifact_path))
    assert [(i.name, i.shape) for i in parted.get_inputs()] == [(f"x_{n}", [1, 3, 8, 8]) for n in range(3)]
    images = [image() for _ in range(3)]
    together = whole.run(None, {"x": np.concatenate(images)})
    alone = parted.run(None, {f"x_{n}": one for n, one in enumerate(images)})
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a, b)
    assert verify(result.artifact_path).passed
    with pytest.raises(DataError, match="x_2"):
        parted.run(None, {"x_0": images[0], "x_1": images[1]})


def test_nothing_is_separated_where_the_batch_is_one(build: Build, listening: Listening) -> None:
    session = Session(build("nash-e", input__separate_batch="True").artifact)
    assert [i.name for i in session.get_inputs()] == ["x"]
    assert any("separate_batch: nothing to split" in line for line in listening.lines)


def test_separate_name_must_be_an_input(build: Build) -> None:
    with pytest.raises(ConfigError, match="separate_name: the model has no input 'y'"):
        build("nash-e", input__input_batch="2", input__separate_name="y")


def test_max_l2m_size_limits_what_the_program_uses(build: Build) -> None:
    free = build("nash-p")
    limited = build("nash-p", compiler__max_l2m_size="1024")
    peaks = [[p.program.onchip_peak_bytes for p in r.artifact.programs.values()] for r in (free, limited)]
    assert max(peaks[0]) > 1024 >= max(peaks[1])
    assert report_of(limited.artifact, measure=False).ddr_bytes > report_of(free.artifact, measure=False).ddr_bytes
    assert verify(limited.artifact_path).passed


def test_max_l2m_size_says_where_it_has_no_effect(build: Build, listening: Listening) -> None:
    build("nash-e", compiler__max_l2m_size="1024")
    assert any("max_l2m_size: has no effect" in line for line in listening.lines)


def test_extra_params_take_the_padding_away(build: Build, listening: Listening) -> None:
    padded = build("nash-e")
    dense = build("nash-e", compiler__extra_params="{input_no_padding: true, output_no_padding: 'True', other: 1}")
    assert verify(dense.artifact_path).passed

    def border(result: object) -> dict[str, int]:
        programs = result.artifact.programs.values()  # type: ignore[attr-defined]
        return {r.name: r.bytes for p in programs for r in p.program.regions if r.kind in ("input", "output")}

    sizes = border(dense)
    assert sizes["x_quantized"] == 3 * 8 * 8
    assert sum(sizes.values()) < sum(border(padded).values())
    assert any("extra_params: other: has no effect" in line for line in listening.lines)


def test_extra_params_must_be_true_or_false(build: Build) -> None:
    with pytest.raises(ConfigError, match="input_no_padding: 'sometimes' is neither True nor False"):
        build("nash-e", compiler__extra_params="{input_no_padding: sometimes}")


@pytest.mark.parametrize("march", ["nash-p", "nash-h", "nash-b", "nash-b-lite", "nash-b-plus", "nash-starry-p"])
def test_marches_without_figures_of_their_own_say_whose_they_use(
    build: Build, listening: Listening, march: str
) -> None:
    result = build(march)
    assert result.artifact.march == result.artifact.target.march == march
    assert any(f"march {march}: most figures" in text for text in listening.warnings)
    assert result.artifact.target.sources["vector_ops"].startswith("as nash-")
    assert verify(result.artifact_path).passed


@pytest.mark.parametrize("node", ["conv1", "pool", "conv2"])
def test_a_batch_with_float_nodes_on_the_cpu(build: Build, node: str) -> None:
    result = build(input__input_batch="5", calibration__run_on_cpu=node)
    session = Session(result.artifact_path)
    assert session.get_inputs()[0].shape == [5, 3, 8, 8]
    assert verify(result.artifact_path).passed


def test_a_batch_larger_than_what_is_tried(build: Build) -> None:
    result = build(input__input_batch="33", compiler__optimize_level="O1")
    session = Session(result.artifact_path)
    images = RNG.standard_normal((33, 3, 8, 8)).astype(np.float32)
    whole = session.run(None, {"x": images})
    alone = Session(build().artifact).run(None, {"x": images[32:]})
    for many, one in zip(whole, alone, strict=True):
        np.testing.assert_array_equal(many[32:], one)
