"""Artifacts whose checksums are right and whose content is not: a clear error, no crash, little memory, nothing run."""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hbtool.artifact.container import Container, read_container, write_container
from hbtool.errors import ArtifactError, HbError
from hbtool.flows.perf import report_of
from hbtool.runtime import Session
from hbtool.runtime.artifact import load_artifact

VALUES = (-1, 0, 1, 3, 255, 4096, 1 << 16, 1 << 20, 1 << 31, 1 << 40, (1 << 48) - 1, 1 << 62, 1.5, float("nan"))
HOSTILE = (*VALUES, "x", "x" * 5000, None, True, [], [1, 2], {}, "conv", "copy", "int8", "object")
MOST_NEW_BYTES = 512 << 20
FEEDS = {"image": np.random.default_rng(2).integers(0, 256, (1, 24, 16), dtype=np.uint8)}


def _rewritten(source: Path, target: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> Path:
    """The artifact after a change of header or tensors, with checksums that fit."""
    container = read_container(source)
    header = json.loads(json.dumps({k: v for k, v in container.header.items() if k not in ("checksums", "format")}))
    tensors = dict(container.tensors)
    change(header, tensors)
    return write_container(target, Container(header, tensors))


def _spoil(rng: random.Random, data: Any) -> None:
    """Put something else somewhere into nested lists and mappings."""
    place: tuple[Any, Any] | None = None
    while isinstance(data, list | dict) and data and (place is None or rng.random() < 0.9):
        key = rng.choice(list(data)) if isinstance(data, dict) else rng.randrange(len(data))
        place, data = (data, key), data[key]
    assert place is not None
    parent, key = place
    if isinstance(data, int) and rng.random() < 0.5:
        parent[key] = data + rng.choice((-64, -1, 1, 64, 1000))
    else:
        parent[key] = rng.choice(HOSTILE)


def _spoil_file(rng: random.Random, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    kind = rng.choice(("program", "program", "program", "header", "graph"))
    if kind == "header":
        _spoil(rng, header)
    elif kind == "graph":
        data = bytearray(tensors["graph"].tobytes())
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        tensors["graph"] = np.frombuffer(bytes(data), np.uint8)
    else:
        name = rng.choice([n for n in tensors if n.startswith("program/")])
        program = json.loads(tensors[name].tobytes())
        for _ in range(rng.randint(1, 3)):
            _spoil(rng, program)
        tensors[name] = np.frombuffer(json.dumps(program).encode(), np.uint8)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(seed=st.integers(0, 1 << 32))
def test_whatever_is_changed_every_reader_gives_a_result_or_one_clear_error(
    small_artifact: Path, tmp_path: Path, seed: int
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    file = _rewritten(small_artifact, tmp_path / "hostile.bin", lambda h, t: _spoil_file(random.Random(seed), h, t))
    readers: tuple[Callable[[], Any], ...] = (
        lambda: load_artifact(file),
        lambda: report_of(file),
        lambda: Session(file, "sim").run(None, FEEDS),
        lambda: Session(file).run(None, FEEDS),
    )
    for read in readers:
        with suppress(HbError):
            read()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_NEW_BYTES


def _graph(change: Callable[[onnx.GraphProto], Any]) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    def apply(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        proto = onnx.ModelProto()
        proto.ParseFromString(tensors["graph"].tobytes())
        change(proto.graph)
        tensors["graph"] = np.frombuffer(proto.SerializeToString(), np.uint8)

    return apply


def _program(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    def apply(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        program = json.loads(tensors["program/bpu_0"].tobytes())
        change(program)
        tensors["program/bpu_0"] = np.frombuffer(json.dumps(program).encode(), np.uint8)

    return apply


def _external(graph: onnx.GraphProto) -> None:
    (node,) = (n for n in graph.node if n.op_type == "CumSum")
    secret = onnx.TensorProto(name="secret", data_type=onnx.TensorProto.UINT8, dims=[4])
    secret.data_location = onnx.TensorProto.EXTERNAL
    secret.external_data.add(key="location", value="../../etc/passwd")
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(secret)


def _huge(graph: onnx.GraphProto) -> None:
    (value,) = (v for v in graph.value_info if v.name == graph.node[0].output[0])
    value.type.tensor_type.shape.dim[1].dim_value = 1 << 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_graph(_external), "another file"),
        (_graph(lambda g: g.node[1].input.__setitem__(0, "nowhere")), "nothing before it gives"),
        (_graph(lambda g: g.output[0].__setattr__("name", "nowhere")), "nothing gives the output"),
        (_graph(lambda g: g.sparse_initializer.add()), "sparse"),
        (_graph(_huge), "would take"),
        (_program(lambda p: p.update(onchip_bytes=1 << 34, onchip_peak_bytes=0)), "another machine"),
        (_program(lambda p: p["regions"].append(["more", "spill", 1 << 35, -1])), "bytes of DDR"),
        (_program(lambda p: p["regions"][0].__setitem__(0, "other")), "other inputs or outputs"),
        (
            lambda h, t: t.update({f"{k}/bpu_9": t[f"{k}/bpu_0"] for k in ("program", "weights")}),
            "do not match the seg",
        ),
        (lambda h, t: h["target"]["cores"].update(value=-3), "cores"),
    ],
)
def test_what_does_not_belong_together_is_refused_on_loading(
    small_artifact: Path, tmp_path: Path, change: Any, message: str
) -> None:
    file = _rewritten(small_artifact, tmp_path / "hostile.bin", change)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(file)


def test_attributes_that_ask_for_huge_arrays_cost_no_memory(small_artifact: Path, tmp_path: Path) -> None:
    def wide(program: dict[str, Any]) -> None:
        for attributes in program["attributes"]:
            if "pads" in attributes:
                attributes["pads"] = [0, 1 << 33, 0, 0]

    file = _rewritten(small_artifact, tmp_path / "hostile.bin", _program(wide))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtifactError, match="do not fit"):
        Session(file, "sim").run(None, FEEDS)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_NEW_BYTES
