"""Sample folders: every file kind, pairing, the runtime's colour format, and one clear error per mistake."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hbtool.calibration.dataset import FolderDataset, RandomDataset, to_graph_input
from hbtool.calibration.input_spec import InputSpec
from hbtool.errors import DataError
from hbtool.numerics.color import to_runtime_128


def image_spec(folder: Path, **changes: object) -> InputSpec:
    facts: dict[str, object] = {"name": "x", "shape": (1, 3, 4, 6), "type_rt": "rgb", "type_train": "rgb"}
    return InputSpec(**{**facts, "cal_data_dir": folder, **changes})  # type: ignore[arg-type]


def pixels(seed: int = 0, shape: tuple[int, ...] = (1, 3, 4, 6)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "calibration"
    made.mkdir()
    return made


def test_raw_bytes_become_signed_floats_in_order_of_name(folder: Path) -> None:
    for name, seed in (("b.rgb", 2), ("a.bin", 1), ("c", 3)):
        pixels(seed).tofile(folder / name)
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "deeper").mkdir()
    data = FolderDataset([image_spec(folder)])
    assert len(data) == 3
    for again in range(2):
        samples = list(data)
        for index in range(3):
            np.testing.assert_array_equal(samples[index]["x"], pixels(index + 1).astype(np.float32) - 128, str(again))
    assert samples[0]["x"].dtype == np.float32


@pytest.mark.parametrize("dtype", ["float32", "int16", "int32", "int8", "uint8"])
def test_raw_dtype_is_the_configured_one(folder: Path, dtype: str) -> None:
    values = np.arange(72).reshape(1, 3, 4, 6).astype(dtype)
    values.tofile(folder / "a")
    spec = InputSpec("f", (1, 3, 4, 6), cal_data_dir=folder, cal_data_type=dtype)
    np.testing.assert_array_equal(FolderDataset([spec])[0]["f"], np.arange(72, dtype=np.float32).reshape(1, 3, 4, 6))


def test_folder_name_tells_float32(tmp_path: Path) -> None:
    named = tmp_path / "data_f32"
    named.mkdir()
    pixels().astype(np.float32).tofile(named / "a")
    np.testing.assert_array_equal(FolderDataset([image_spec(named)])[0]["x"], pixels().astype(np.float32) - 128)


@pytest.mark.parametrize("shape", [(1, 3, 4, 6), (3, 4, 6), (72,)])
def test_npy_is_known_by_its_first_bytes(folder: Path, shape: tuple[int, ...]) -> None:
    with (folder / "sample.bin").open("wb") as stream:
        np.save(stream, pixels().reshape(shape))
    np.testing.assert_array_equal(FolderDataset([image_spec(folder)])[0]["x"], pixels().astype(np.float32) - 128)


@pytest.mark.parametrize("suffix", ["png", "bmp"])
@pytest.mark.parametrize("train", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pictures_are_decoded_in_training_colours(folder: Path, suffix: str, train: str, layout: str) -> None:
    picture = pixels(shape=(4, 6, 3))
    Image.fromarray(picture).save(folder / f"a.{suffix}")
    shape = (1, 3, 4, 6) if layout == "NCHW" else (1, 4, 6, 3)
    changes = {"shape": shape, "layout_train": layout, "type_train": train, "type_rt": train}
    got = FolderDataset([image_spec(folder, preprocess_on=True, **changes)])[0]["x"]
    expected = picture[None] if train == "rgb" else picture[None, ..., ::-1]
    expected = expected.transpose(0, 3, 1, 2) if layout == "NCHW" else expected
    np.testing.assert_array_equal(got, expected.astype(np.float32) - 128)


def test_pictures_are_resized_and_gray_has_one_channel(folder: Path) -> None:
    Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(folder / "a.jpg")
    spec = InputSpec("g", (1, 1, 4, 6), np.float32, "gray", "gray", cal_data_dir=folder, preprocess_on=True)
    np.testing.assert_array_equal(FolderDataset([spec])[0]["g"], np.full((1, 1, 4, 6), 90 - 128, np.float32))


@pytest.mark.parametrize(("train", "runtime"), [("rgb", "nv12"), ("bgr", "nv12"), ("rgb", "yuv444"), ("rgb", "bgr")])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_samples_go_through_the_runtime_format(train: str, runtime: str, layout: str) -> None:
    planes = pixels()
    shape = (1, 3, 4, 6) if layout == "NCHW" else (1, 4, 6, 3)
    spec = InputSpec("x", shape, np.float32, runtime, train, layout_train=layout)
    fed = planes if layout == "NCHW" else planes.transpose(0, 2, 3, 1)
    got = to_graph_input(fed, spec)
    back = got if layout == "NCHW" else got.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(back, to_runtime_128(planes, train, runtime, "regular"))
    if runtime in ("nv12", "yuv444"):
        np.testing.assert_array_equal(got, np.rint(got))
    if runtime == "nv12":
        np.testing.assert_array_equal(back[:, 1:, ::2, ::2], back[:, 1:, 1::2, 1::2])


def test_inputs_are_paired_by_sorted_name(tmp_path: Path) -> None:
    specs = []
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        for index in range(3):
            np.full((1, 2), index, np.float32).tofile(tmp_path / name / f"{index}.bin")
        specs.append(InputSpec(name, (1, 2), cal_data_dir=tmp_path / name, cal_data_type="float32"))
    for sample in FolderDataset(specs):
        np.testing.assert_array_equal(sample["left"], sample["right"])
    assert len(FolderDataset(specs, limit=2)) == 2
    (tmp_path / "right" / "9.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"left: 3, right: 4"):
        FolderDataset(specs)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as caught:
        FolderDataset([image_spec(tmp_path / "nowhere")])
    assert caught.value.where == "input 'x'"
    with pytest.raises(DataError, match="holds no files"):
        FolderDataset([image_spec(tmp_path)])
    with pytest.raises(DataError, match="cal_data_dir"):
        FolderDataset([InputSpec("x", (1, 2))])


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (pixels().astype(np.float32).tobytes(), "The size fits float32 or int32: set cal_data_type"),
        (pixels().tobytes() * 3, "holds 3 samples"),
        (pixels().tobytes()[:-1], "No known dtype fits"),
        (b"\xff\xd8\xff\xe0", "This is a JPEG picture: set preprocess_on"),
    ],
)
def test_wrong_sizes_say_what_was_found_and_what_would_fit(folder: Path, content: bytes, hint: str) -> None:
    (folder / "a.bin").write_bytes(content)
    with pytest.raises(DataError, match=f"found {len(content)} bytes, expected 72") as caught:
        FolderDataset([image_spec(folder)])[0]
    assert caught.value.where == str(folder / "a.bin")
    assert hint in str(caught.value.hint)


def test_npy_of_another_layout_is_refused(folder: Path) -> None:
    np.save(folder / "a.npy", pixels().transpose(0, 2, 3, 1))
    with pytest.raises(DataError, match=r"\(1, 4, 6, 3\), the input 'x' has \(1, 3, 4, 6\)"):
        FolderDataset([image_spec(folder)])[0]


def test_npy_with_objects_or_cut_short_is_refused(folder: Path) -> None:
    np.save(folder / "a.npy", np.array([{"x": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match="holds objects"):
        FolderDataset([image_spec(folder)])[0]
    np.save(folder / "a.npy", pixels())
    (folder / "a.npy").write_bytes((folder / "a.npy").read_bytes()[:-5])
    with pytest.raises(DataError, match="damaged"):
        FolderDataset([image_spec(folder)])[0]


@pytest.mark.parametrize(("bad", "said"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_numbers_that_are_none_are_refused(folder: Path, bad: float, said: str) -> None:
    values = np.zeros((1, 2), np.float32)
    values[0, 1] = bad
    values.tofile(folder / "a")
    spec = InputSpec("f", (1, 2), cal_data_dir=folder, cal_data_type="float32")
    with pytest.raises(DataError, match=said) as caught:
        FolderDataset([spec])[0]
    assert caught.value.where == str(folder / "a")


def test_files_that_are_no_pictures_are_refused(folder: Path) -> None:
    pixels().tofile(folder / "a.jpg")
    with pytest.raises(DataError, match="picture"):
        FolderDataset([image_spec(folder, preprocess_on=True)])[0]


def test_odd_sizes_are_refused_before_reading(folder: Path) -> None:
    with pytest.raises(DataError, match="even height and width"):
        FolderDataset([image_spec(folder, shape=(1, 3, 5, 6), type_rt="nv12")])


def test_image_inputs_have_the_channels_of_their_type() -> None:
    with pytest.raises(DataError, match="cannot hold rgb images"):
        InputSpec("x", (1, 224, 224, 3), type_rt="rgb", type_train="rgb")


def test_normalized_data_and_contradicting_types_are_remarked(tmp_path: Path) -> None:
    named = tmp_path / "data_f32"
    named.mkdir()
    (pixels() / np.float32(255)).tofile(named / "a")
    remarks = FolderDataset([image_spec(named)]).remarks()
    assert len(remarks) == 1
    assert "already normalized" in remarks[0]
    np.save(named / "a", pixels())
    (named / "a").unlink()
    (remark,) = FolderDataset([image_spec(named, cal_data_type="float32")]).remarks()
    assert "a.npy holds uint8, cal_data_type says float32" in remark


@pytest.mark.parametrize(("expected", "held"), [("uint8", np.float32), ("float32", np.uint8)])
def test_a_raw_type_that_nobody_stated_is_told_by_the_size(folder: Path, expected: str, held: type) -> None:
    for seed in range(2):
        pixels(seed).astype(held).tofile(folder / f"{seed}.rgb")
    spec = image_spec(folder, cal_data_type=expected, type_stated=False)
    data = FolderDataset([spec])
    np.testing.assert_array_equal(data[1]["x"], pixels(1).astype(np.float32) - 128)
    (remark,) = data.remarks()
    assert f"0.rgb has the size of {np.dtype(held).name}" in remark
    assert data.description()[0].dtype == np.dtype(held).name
    with pytest.raises(DataError, match="expected"):
        FolderDataset([image_spec(folder, cal_data_type=expected)]).check()


def test_description_names_the_first_file(folder: Path) -> None:
    for name in ("b", "a"):
        (folder / name).write_bytes(name.encode() * 72)
    (first,) = FolderDataset([image_spec(folder)]).description()
    assert (first.path.name, first.samples, first.md5) == ("a", 2, hashlib.md5(b"a" * 72).hexdigest())


def test_random_samples_repeat_and_differ() -> None:
    specs = [
        InputSpec("x", (1, 3, 4, 6), type_rt="nv12", type_train="rgb"),
        InputSpec("f", (1, 7)),
        InputSpec("ids", (1, 9), np.int64),
    ]
    data = RandomDataset(specs, count=3)
    first, again = list(data), list(data)
    assert len(data) == 3
    for name in ("x", "f", "ids"):
        np.testing.assert_array_equal(first[1][name], again[1][name])
    assert not np.array_equal(first[0]["x"], first[1]["x"])
    assert np.abs(first[0]["x"]).max() <= 128
    assert first[0]["ids"].dtype == np.int64


def test_memory_does_not_grow_with_the_number_of_samples(folder: Path) -> None:
    for index in range(40):
        np.zeros((1, 1 << 20), np.float32).tofile(folder / f"{index:02}")
    data = FolderDataset([InputSpec("f", (1, 1 << 20), cal_data_dir=folder, cal_data_type="float32")])
    tracemalloc.start()
    try:
        assert sum(1 for _ in data) == 40
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (1 << 22) < peak_bytes < 4 * (1 << 22)  # a sample is 4 MiB; its bytes and its array may stand side by side
