"""The complaints of the mapper's users, each produced on a small model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from troubled import Heard, Net, config, images, plain, says

from hbtool.errors import HbError
from hbtool.flows.checker import check
from hbtool.flows.lint_data import lint
from hbtool.flows.makertbin import makertbin
from hbtool.flows.tune import TuneTarget, tune
from hbtool.flows.verify import verify
from hbtool.ir import graph
from hbtool.runtime.artifact import load_artifact
from hbtool.runtime.session import Session


def refused(folder: Path, **changes) -> str:
    """The error of makertbin; nothing was built."""
    with pytest.raises(HbError) as caught:
        makertbin(config(folder, **changes))
    assert not list(folder.glob("out/*.bin"))
    assert caught.value.hint
    return str(caught.value)


def softmax_inside(folder: Path) -> Path:
    net = Net()
    x = net.add("Softmax", net.conv("x", 3, 8, "first"), name="soft", axis=1)
    return net.save(folder / "net.onnx", net.conv(x, 8, 4, "last"))


def test_mapper_1(tmp_path: Path) -> None:
    softmax_inside(tmp_path), images(tmp_path)
    rows = {r.node: r for r in makertbin(config(tmp_path)).nodes}
    assert rows["soft"].device == "CPU"
    assert says("mapper_1") in rows["soft"].reason
    rows = {r.node: r for r in makertbin(config(tmp_path, calibration__optimization=says("mapper_1"))).nodes}
    assert all(r.device == "BPU" for r in rows.values())


def test_mapper_2(tmp_path: Path) -> None:
    net = Net()
    scaled = net.add("Div", "x", net.const(np.float32(255)), name="normalize")
    net.save(tmp_path / "net.onnx", net.conv(scaled, 3, 4))
    images(tmp_path)
    heard = Heard()
    makertbin(config(tmp_path), heard)
    assert says("mapper_2") in str(heard)
    assert "double normalization" in {r.check for r in lint(config(tmp_path)).remarks}


def test_mapper_3(tmp_path: Path) -> None:
    plain(tmp_path), images(tmp_path)
    text = refused(tmp_path, calibration__cal_data_type="float32")
    assert says("mapper_3") in text and "uint8" in text and "768 bytes" in text and "3072" in text


def test_mapper_4(tmp_path: Path) -> None:
    plain(tmp_path)
    for file in images(tmp_path).iterdir():
        np.save(file.with_suffix(".npy"), np.fromfile(file, np.uint8).reshape(1, 3, 16, 16))
        file.unlink()
    assert min(r.similarity.cosine for r in makertbin(config(tmp_path)).outputs) > 0.99


def test_mapper_5(tmp_path: Path) -> None:
    plain(tmp_path), images(tmp_path, name="data_f32")
    heard = Heard()
    makertbin(config(tmp_path, calibration__cal_data_dir="data_f32"), heard)
    assert says("mapper_5") in str(heard)


def test_mapper_6(tmp_path: Path) -> None:
    plain(tmp_path), images(tmp_path)
    heard = Heard()
    makertbin(config(tmp_path, model__layer_out_dump=True), heard)
    assert says("mapper_6") in str(heard)
    slow = Heard()
    makertbin(config(tmp_path, compiler__optimize_level="O0"), slow)
    assert "warning: optimize_level O0" in str(slow)
    assert "optimize_level" not in str(heard)


def test_mapper_7(tmp_path: Path) -> None:
    net = Net()
    x = net.add("Softmax", net.conv("x", 3, 8, "first"), name="soft", axis=1)
    net.save(tmp_path / "net.onnx", net.add("Transpose", x, name="turn", perm=[0, 2, 3, 1]))
    images(tmp_path)
    reason = next(r.reason for r in makertbin(config(tmp_path)).nodes if r.node == "turn")
    assert says("mapper_7") in reason


def test_mapper_8(tmp_path: Path) -> None:
    net = Net()
    net.save(tmp_path / "net.onnx", net.conv("x", 3, 4), opset=9)
    images(tmp_path)
    assert min(r.similarity.cosine for r in makertbin(config(tmp_path)).outputs) > 0.99


def test_mapper_9(tmp_path: Path) -> None:
    net = Net((1, 3, "height", "width"))
    net.save(tmp_path / "net.onnx", net.conv("x", 3, 4))
    images(tmp_path)
    text = refused(tmp_path)
    assert says("mapper_9") in text
    makertbin(config(tmp_path, input__input_shape="1x3x16x16"))


def test_mapper_10(tmp_path: Path) -> None:
    net = Net()
    x = net.conv("x", 3, 4)
    net.save(tmp_path / "net.onnx", *(net.add("Relu", x) for _ in range(33)))
    images(tmp_path)
    assert says("mapper_10") in refused(tmp_path)


def test_mapper_11(tmp_path: Path) -> None:
    plain(tmp_path), images(tmp_path)
    loaded = config(tmp_path, calibration__run_on_cpu="last")
    built = {r.node: r.device for r in makertbin(loaded).nodes}
    checked = {r.node: r.device for r in check(loaded).nodes}
    assert checked == built and built["last"] == "CPU"


def test_mapper_12(tmp_path: Path) -> None:
    plain(tmp_path)
    file = next(images(tmp_path).iterdir())
    session = Session(makertbin(config(tmp_path)).artifact_path)
    picture = np.fromfile(file, np.uint8).reshape(1, 3, 16, 16)
    (got,) = session.run(None, {"x": picture})
    original = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (want,) = original.run(None, {"x": ((picture - 127.5) * 0.0078).astype(np.float32)})
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.999


def test_mapper_13(tmp_path: Path) -> None:
    net = Net()
    flat = net.add("Reshape", net.conv("x", 3, 4), net.const(np.array([1, -1])), name="flat")
    net.save(tmp_path / "net.onnx", flat)
    images(tmp_path, count=8)
    heard = Heard()
    assert min(r.similarity.cosine for r in makertbin(config(tmp_path), heard).outputs) > 0.99
    assert "batch_size" not in str(heard)


def test_mapper_14(tmp_path: Path) -> None:
    net = Net()
    a, b = net.conv("x", 3, 4), net.conv("x", 3, 4)
    net.save(tmp_path / "net.onnx", net.add("MatMul", a, b, name="product"))
    images(tmp_path)
    heard = Heard()
    node = {"product": {"ON": "BPU", "InputType0": "int16", "InputType1": "int16"}}
    makertbin(config(tmp_path, model__node_info=node), heard)
    assert says("mapper_14") in str(heard)


def test_mapper_15(tmp_path: Path) -> None:
    plain(tmp_path), images(tmp_path)
    text = refused(tmp_path, model__march="bernoulli2", calibration__run_on_bpu="first")
    assert says("mapper_15") in text and "config.yaml:" in text


def test_mapper_16(tmp_path: Path) -> None:
    plain(tmp_path), images(tmp_path)
    text = refused(tmp_path, compiler__core_num=2)
    assert says("mapper_16") in text and "config.yaml:" in text


def test_mapper_17(tmp_path: Path) -> None:
    plain(tmp_path), images(tmp_path)
    made = load_artifact(makertbin(config(tmp_path, model__march="bayes")).artifact_path)
    assert made.march == "bayes" == made.target.march


def test_mapper_18(tmp_path: Path) -> None:
    """Integer times scale is what the artifact with its Dequantize gives."""
    plain(tmp_path)
    picture = np.fromfile(next(images(tmp_path).iterdir()), np.uint8).reshape(1, 3, 16, 16)
    (whole,) = Session(makertbin(config(tmp_path)).artifact_path).run(None, {"x": picture})
    bare = makertbin(config(tmp_path, model__remove_node_type="Dequantize", model__working_dir="bare"))
    session = Session(bare.artifact_path)
    (out,), (integers,) = session.get_outputs(), session.run(None, {"x": picture})
    assert out.type == says("mapper_18") and integers.dtype == np.int32
    assert out.quantization.axis == 1 and len(out.quantization.scales) == 4
    np.testing.assert_allclose(integers * np.reshape(out.quantization.scales, (1, 4, 1, 1)), whole, rtol=1e-6)


def test_mapper_19(tmp_path: Path) -> None:
    net = Net((1, 3, 15, 16))
    net.save(tmp_path / "net.onnx", net.conv("x", 3, 4))
    images(tmp_path, shape=(1, 3, 15, 16))
    assert says("mapper_19") in refused(tmp_path, input__input_type_rt="nv12", input__input_layout_rt=None)


def test_mapper_20(tmp_path: Path) -> None:
    info = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Conv", [i, "w"], [f"{i}_c"], f"conv_{i}") for i in ("a", "b")]
    nodes += [onnx.helper.make_node("Sub", ["a_c", "b_c"], ["y"], "sub")]
    weight = onnx.numpy_helper.from_array(np.ones((2, 1, 1, 1), np.float32), "w")
    inputs = [info(i, onnx.TensorProto.FLOAT, [1, 1, 4, 4]) for i in ("a", "b")]
    made = onnx.helper.make_graph(nodes, "two", inputs, [info("y", onnx.TensorProto.FLOAT, [1, 2, 4, 4])], [weight])
    onnx.save(
        onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "net.onnx",
    )
    for name, level in (("ones", 1.0), ("tens", 10.0)):
        (tmp_path / name).mkdir()
        np.full((1, 1, 4, 4), level, np.float32).tofile(tmp_path / name / "0.bin")
    loaded = config(
        tmp_path, input__input_name="b;a", input__input_type_rt="featuremap;featuremap",
        input__input_type_train="featuremap;featuremap", input__input_layout_train="NCHW;NCHW",
        input__input_layout_rt=None, input__norm_type="no_preprocess;no_preprocess", input__mean_value=None,
        input__scale_value=None, calibration__cal_data_dir="tens;ones", calibration__cal_data_type="float32;float32",
    )  # fmt: skip
    session = Session(makertbin(loaded).artifact_path)
    feeds = {"a": np.full((1, 1, 4, 4), 1, np.float32), "b": np.full((1, 1, 4, 4), 10, np.float32)}
    (got,) = session.run(None, feeds)
    assert np.allclose(got, -9, atol=0.2)


def test_mapper_21(tmp_path: Path) -> None:
    net = Net()
    x = net.conv("x", 3, 4)
    net.save(tmp_path / "net.onnx", net.conv(x, 4, 4), net.conv(x, 4, 2))
    images(tmp_path)
    result = verify(makertbin(config(tmp_path)).artifact_path, reference=True)
    assert result.passed and len({d.output for d in result.differences}) == 2
    assert len({d.executor for d in result.differences}) == 3


def test_mapper_22(tmp_path: Path) -> None:
    data = plain(tmp_path).read_bytes()
    images(tmp_path)
    (tmp_path / "net.onnx").write_bytes(data[: len(data) // 2])
    text = refused(tmp_path)
    assert says("mapper_22") in text and "net.onnx" in text


def test_mapper_23(tmp_path: Path) -> None:
    softmax_inside(tmp_path), images(tmp_path)
    stages = [f for f in makertbin(config(tmp_path)).files.values() if f.suffix == ".onnx"]
    assert len(stages) == 4
    for file in stages:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (fed,) = session.get_inputs()
        dtype = np.int8 if "int8" in fed.type else np.float32
        assert np.isfinite(session.run(None, {fed.name: np.zeros(fed.shape, dtype)})[0]).all()


def wide_channel(folder: Path) -> Path:
    """Two convolutions; channel 2 between them is 200 times as wide as the others, and read accordingly."""
    net = Net()
    net.conv(net.conv("x", 3, 8, "first"), 8, 4, "last")
    for index, axis, factor in ((0, 0, 200.0), (1, 1, 1 / 200.0)):
        weight = onnx.numpy_helper.to_array(net.constants[index]).copy()
        (weight if axis == 0 else weight.swapaxes(0, 1))[2] *= factor
        net.constants[index].CopyFrom(onnx.numpy_helper.from_array(weight, net.constants[index].name))
    return net.save(folder / "net.onnx", "last_out")


def test_mapper_24(tmp_path: Path) -> None:
    wide_channel(tmp_path), images(tmp_path)
    result = tune(config(tmp_path), TuneTarget(cosine=0.999))
    assert result.base.cosine < 0.99 and result.chosen.reached
    assert [c.label for c in result.chosen.changes] == [says("mapper_24")]
    again = makertbin(result.loaded)
    assert graph.node_name(again.artifact.model.graph[0])
    assert min(r.similarity.cosine for r in again.outputs) > 0.999
