"""An artifact is checked before anything in it is used."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hbtool.errors import ArtifactError
from hbtool.runtime import Session
from hbtool.runtime.artifact import load_artifact, save_artifact


def test_what_is_written_is_read(small_artifact: Path, tmp_path: Path) -> None:
    artifact = load_artifact(small_artifact)
    again = load_artifact(save_artifact(artifact, tmp_path / "copy.bin"))
    assert (tmp_path / "copy.bin").read_bytes() == small_artifact.read_bytes()
    assert again.inputs == artifact.inputs
    assert again.programs == artifact.programs
    assert again.target == artifact.target


def test_constants_are_stored_once(small_artifact: Path) -> None:
    artifact = load_artifact(small_artifact)
    weights = sum(len(p.weights) for p in artifact.programs.values())
    header = _header(small_artifact)
    assert header["shared"], "the larger weights lie in the weight region"
    constants = sum(int(np.prod(v["shape"])) for k, v in _tensors(small_artifact).items() if k.startswith("const/"))
    assert constants < weights


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 5000, -1])
def test_a_truncated_file_says_so(small_artifact: Path, tmp_path: Path, keep: int) -> None:
    data = small_artifact.read_bytes()
    (tmp_path / "cut.bin").write_bytes(data[:keep])
    with pytest.raises(ArtifactError, match=r"truncated|cannot be read"):
        load_artifact(tmp_path / "cut.bin")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(small_artifact: Path, tmp_path: Path, position: float, bit: int) -> None:
    data = bytearray(small_artifact.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    (tmp_path / "flipped.bin").write_bytes(data)
    with pytest.raises(ArtifactError):
        load_artifact(tmp_path / "flipped.bin")


def test_other_files_are_named_as_what_they_are_not(tmp_path: Path) -> None:
    (tmp_path / "text.bin").write_text("not an artifact at all, but long enough to have a length prefix")
    with pytest.raises(ArtifactError, match="not an hbtool artifact"):
        load_artifact(tmp_path / "text.bin")
    with pytest.raises(ArtifactError, match="does not exist"):
        load_artifact(tmp_path / "nothing.bin")


def test_a_huge_length_prefix_costs_no_memory(small_artifact: Path, tmp_path: Path) -> None:
    data = small_artifact.read_bytes()
    (tmp_path / "huge.bin").write_bytes(struct.pack("<Q", 1 << 60) + data[8:])
    with pytest.raises(ArtifactError, match="truncated"):
        load_artifact(tmp_path / "huge.bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(version=99), "format version 99"),
        (lambda h: h.pop("inputs"), "incomplete"),
        (lambda h: h["inputs"][0].update(shape=["many"]), "incomplete"),
        (lambda h: h["target"].pop("cores"), "incomplete"),
        (
            lambda h: h.update(shared={next(iter(h["shared"])): ["bpu_0", 1 << 40]}),
            "another size|graph cannot be read|incomplete",
        ),
        (lambda h: h.update(checksums=[]), "not an hbtool artifact"),
    ],
)
def test_a_hostile_header_is_refused(small_artifact: Path, tmp_path: Path, change, message: str) -> None:
    header = _header(small_artifact)
    change(header)
    _rewrite(small_artifact, tmp_path / "hostile.bin", header)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(tmp_path / "hostile.bin")


def test_session_runs_both_backends_to_the_same_bits(small_artifact: Path) -> None:
    nv12 = np.random.default_rng(2).integers(0, 256, (1, 24, 16), dtype=np.uint8)
    host = Session(small_artifact).run(None, {"image": nv12})
    for backend in ("sim", "reference"):
        other = Session(small_artifact, backend).run(None, {"image": nv12.tobytes()})
        for a, b in zip(host, other, strict=True):
            np.testing.assert_array_equal(a, b)


def _read_head(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _header(path: Path) -> dict:
    return json.loads(_read_head(path)[0]["__metadata__"]["hbtool"].partition(":")[2])


def _tensors(path: Path) -> dict:
    return {k: v for k, v in _read_head(path)[0].items() if k != "__metadata__"}


def _rewrite(source: Path, target: Path, header: dict) -> None:
    head, body = _read_head(source)
    text = json.dumps(header)
    head["__metadata__"] = {"hbtool": f"{zlib.crc32(text.encode())}:{text}"}
    encoded = json.dumps(head).encode()
    encoded += b" " * (-len(encoded) % 8)
    target.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)
