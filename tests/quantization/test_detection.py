"""Layers of detectors and point clouds: what they compute in float, and that they run behind a fixed-point program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hbtool import functional as color
from hbtool import nn as hnn
from hbtool.errors import UsageError
from hbtool.nn import functional as hf
from hbtool.qtensor import QTensor
from hbtool.quantization import (
    DeQuantStub,
    QuantStub,
    compile_model,
    convert_fx,
    get_default_qat_qconfig,
    prepare_qat_fx,
)
from hbtool.runtime.session import Session
from hbtool.utils.fx_helper import wrap

ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 40, 40]])


def test_detection_post_process_decodes_filters_and_suppresses() -> None:
    scores = torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.05, 0.6]]])
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 2, 0] = 0.5  # half of the width of 20 to the right
    layer = hnn.DetectionPostProcess(score_threshold=0.5, iou_threshold=0.5, image_size=(45, 45))
    boxes, best, labels = layer([ANCHORS], [scores], [deltas])
    assert best[0].tolist() == pytest.approx([0.9, 0.6])
    assert labels[0].tolist() == [0, 1]
    assert boxes[0].tolist() == [[0, 0, 10, 10], [30, 20, 45, 40]]
    all_boxes = hnn.DetectionPostProcess(score_threshold=0.5, post_nms_top_n=2)([ANCHORS], [scores], [deltas])[0][0]
    assert all_boxes.tolist() == [[0, 0, 10, 10], [0, 0, 10, 10]]


def test_detection_post_process_of_maps_equals_rows() -> None:
    torch.manual_seed(1)
    scores, deltas, anchors = torch.rand(2, 3 * 5, 4, 6), torch.randn(2, 3 * 4, 4, 6) / 4, torch.rand(72, 4) * 9
    anchors[:, 2:] += anchors[:, :2]
    rows = [hnn.boxes.per_anchor(t, c) for t, c in ((scores, 5), (deltas, 4))]
    layer = hnn.DetectionPostProcess(score_threshold=0.3, iou_threshold=0.4, pre_nms_top_n=30)
    one, two = layer([anchors], [scores], [deltas]), layer([anchors], [rows[0]], [rows[1]])
    assert all(torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))
    assert rows[0][0, 1].tolist() == scores[0, 5:10, 0, 0].tolist()


def test_yolo_mode_multiplies_by_the_objectness() -> None:
    scores = torch.tensor([[[0.9, 0.5, 0.8], [0.2, 1.0, 1.0], [0.6, 0.9, 0.1]]])
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 0, :2] = 3
    layer = hnn.DetectionPostProcess(score_threshold=0.3, mode="yolo")
    boxes, best, labels = layer([ANCHORS], [scores], [deltas])
    assert best[0].tolist() == pytest.approx([0.72, 0.54])
    assert labels[0].tolist() == [1, 0]
    assert boxes[0][0].tolist() == [3, 3, 13, 13]


def test_post_process_v1_suppresses_beyond_the_margin_and_pads() -> None:
    data = torch.tensor([[0.9, 0.0, 0, 0, 0, 0], [0.85, 0.0, 0, 0, 0, 0], [0.1, 0.7, 0, 0, 0, 0]])[None]
    settings = {"class_offsets": [10], "use_clippings": True, "image_size": (30, 30), "nms_threshold": 0.5}
    limits = {"num_classes": 2, "box_filter_threshold": 0.2, "pre_nms_top_k": 10, "post_nms_top_k": 4}
    boxes, scores, labels = hnn.DetectionPostProcessV1(**settings, **limits)([data], [ANCHORS])[0]
    assert labels.tolist() == [10, 11]
    assert boxes[1].tolist() == [20, 20, 30, 30]
    close = hnn.DetectionPostProcessV1(**settings, **limits, nms_margin=0.1, nms_padding_mode="rollover")
    boxes, scores, labels = close([data], [ANCHORS])[0]
    assert scores.tolist() == pytest.approx([0.9, 0.85, 0.7, 0.9])
    zeros = hnn.DetectionPostProcessV1(**settings, **limits, nms_padding_mode="pad_zero")([data], [ANCHORS])[0]
    assert zeros[1].tolist() == pytest.approx([0.9, 0.7, 0, 0])
    with pytest.raises(UsageError, match="nms_padding_mode"):
        hnn.DetectionPostProcessV1(**settings, **limits, nms_padding_mode="wrap")


def test_rcnn_post_process_pads_with_minus_one() -> None:
    layer = hnn.RcnnPostProcess(image_size=(100, 100), num_classes=1, post_nms_top_k=3)
    scores = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.95, 0.05]])
    rows = layer([ANCHORS, ANCHORS[:1]], scores, torch.zeros(4, 8))
    assert rows.shape == (2, 3, 6)
    assert rows[0, :2].tolist() == [[0, 0, 10, 10, pytest.approx(0.9), 0], [20, 20, 40, 40, pytest.approx(0.7), 0]]
    assert (rows[0, 2] == -1).all() and (rows[1] == -1).all()


def test_anchors_are_centred_on_their_cells() -> None:
    layer = hnn.AnchorGenerator(((32,), (64,)), ((1.0, 4.0),) * 2)
    anchors = layer(torch.zeros(2, 3, 64, 64), [torch.zeros(2, 8, 4, 4), torch.zeros(2, 8, 2, 2)])
    assert len(anchors) == 2 and anchors[0].shape == (4 * 4 * 2 + 2 * 2 * 2, 4)
    assert anchors[0][0].tolist() == [-16, -16, 16, 16]
    assert anchors[0][1].tolist() == [-8, -32, 8, 32]
    assert anchors[0][2].tolist() == [0, -16, 32, 16]
    assert layer.num_anchors_per_location() == [2, 2]
    assert hnn.BaseGridGenerator((2, 3))()[1].tolist() == [[0, 1], [1, 1], [2, 1]]
    assert hnn.BaseGridGenerator((2, 3), True)().shape == (2, 3, 3)


def test_roi_align_takes_means_of_a_linear_image() -> None:
    ramp = torch.arange(8.0).expand(8, 8)
    image = torch.stack([ramp, ramp.T])[None]
    out = hf.roi_align(image, [torch.tensor([[1.0, 2, 5, 6]])], (2, 2), sampling_ratio=2)
    # On a linear image a mean is the value at the centre of the bin.
    torch.testing.assert_close(out[0], torch.tensor([[[2.0, 4], [2, 4]], [[3, 3], [5, 5]]]))


def test_boxes_go_to_the_level_of_their_size() -> None:
    levels = [torch.full((1, 1, 64, 64), 1.0), torch.full((1, 1, 32, 32), 2.0)]
    layer = hnn.MultiScaleRoIAlign((2, 2), (4, 8), canonical_box_size=64, canonical_level=3)
    out = layer(levels, [torch.tensor([[0.0, 0, 70, 70], [0, 0, 16, 16], [8, 8, 100, 100]])])
    assert out[:, 0, 0, 0].tolist() == [2, 1, 2]


def test_filter_and_run_lengths() -> None:
    x = torch.zeros(1, 3, 2, 2)
    x[0, 1, 0, 1], x[0, 2, 1, 0], x[0, 0, 1, 1] = 5, 7, 9
    values, channels, places, data = hf.filter(x, threshold=4.0, idx_range=(1, 2))[0]
    assert values.tolist() == [5, 7] and channels.tolist() == [0, 1] and places.tolist() == [[0, 1], [1, 0]]
    assert data.tolist() == [[0, 5, 0], [0, 0, 7]]
    assert hnn.FilterModule(4.0, (1, 2))(x)[0][0].tolist() == [5, 7]
    assert hf.rle(torch.tensor([[[3, 3], [3, 1]]]))[0].tolist() == [[3, 3], [1, 1]]
    long = hf.rle(torch.zeros(1, 300, dtype=torch.int64), torch.int8)[0]
    assert long.tolist() == [[0, 127], [0, 127], [0, 46]]


def test_points_become_pillars_and_an_image() -> None:
    cloud = torch.tensor([[0.1, 0.1, 0, 1], [5, 5, 5, 5], [1.6, 0.2, 0, 2], [0.2, 0.3, 0, 3], [0.3, 0.3, 0, 4]])
    features, coords = hf.point_pillars_preprocess([cloud], (0, 0, -1, 2, 2, 1), (1, 1, 2), 3, 2, use_max=True)
    assert features[0, :, 3].tolist() == [1, 3] and features[1, :, 3].tolist() == [2, 0]
    assert coords.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [-1, -1, -1, -1]]
    norm, _ = hf.point_pillars_preprocess([cloud], (0, 0, -1, 2, 2, 1), (1, 1, 2), 3, 2, False, (0, 4), (3,))
    assert norm[0, :, 3].tolist() == [0.25, 0.75]
    image = hnn.PointPillarsScatter((1, 4, 2, 2))(features[:2].amax(1), coords[:2])
    assert image[0, 3].tolist() == [[3, 2], [0, 0]]


def test_bev_pool_sums_lifted_features() -> None:
    depth, feat = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([[1.0, 10], [3, 30]])
    ranks = (torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]), torch.tensor([3, 3, 0]))
    out = hnn.BevPoolV2((1, 1, 2, 2, 2))(depth, feat, *ranks)
    assert out[0, 0, 0].tolist() == [[3, 0], [0, 6.5]]


def test_deformable_attention_equals_its_definition_and_is_differentiable() -> None:
    torch.manual_seed(0)
    layer = hnn.MultiScaleDeformableAttention(8, 2, 2, 2, dropout=0.0, batch_first=True)
    shapes = [(4, 5), (2, 3)]
    value, query = torch.randn(1, 26, 8), torch.randn(1, 3, 8, requires_grad=True)
    places = torch.rand(1, 3, 2, 2)
    nn.init.zeros_(layer.sampling_offsets.bias)
    out = layer(query, value, places, shapes)
    # Without offsets every point of a level samples the reference itself, with equal weights.
    projected = layer.value_proj(value)
    images = [p.transpose(1, 2).reshape(1, 8, *s) for p, s in zip(projected.split([20, 6], 1), shapes, strict=True)]
    samples = [
        nn.functional.grid_sample(i, places[:, :, None, k] * 2 - 1, align_corners=False)[..., 0].transpose(1, 2)
        for k, i in enumerate(images)
    ]
    torch.testing.assert_close(out, layer.output_proj((samples[0] + samples[1]) / 2) + query)
    out.sum().backward()
    assert query.grad is not None


def test_colour_of_deployed_images() -> None:
    gray = torch.full((1, 3, 2, 2), 100.0)
    assert color.rgb2centered_yuv(gray, "full")[0, :, 0, 0].tolist() == pytest.approx([-28, 0, 0], abs=1e-3)
    assert torch.equal(color.bgr2centered_yuv(gray), color.rgb2centered_yuv(gray))
    camera = QTensor(torch.tensor([-28, 0, 0], dtype=torch.int8).reshape(1, 3, 1, 1), 1.0)
    rgb = color.centered_yuv2rgb(camera, "full", 128.0, 128.0, 1 / 128)
    assert rgb.int_repr().flatten().tolist() == [-28, -28, -28]
    assert color.centered_yuv2bgr(camera, "full").int_repr().flatten().tolist() == [-28, -28, -28]


@wrap(skip_compile=True)
def count_positive(x: Tensor) -> Tensor:
    return torch.nonzero(x > 0)


class Detector(nn.Module):
    """Stubs, a convolution, and post-processing in the same forward."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv = nn.Conv2d(3, 6, 1)
        self.post = hnn.DetectionPostProcess(score_threshold=0.2, iou_threshold=0.5)
        self.register_buffer("anchors", torch.rand(16, 4) + torch.tensor([0.0, 0, 5, 5]))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.dequant(self.conv(self.quant(x)))
        scores = y[:, 4:]
        boxes, best, labels = self.post([self.anchors], [scores], [y[:, :4]])
        return boxes[0], best[0], labels[0], count_positive(scores)


def test_post_processing_runs_behind_the_fixed_point_program(tmp_path) -> None:
    x = torch.randn(1, 3, 4, 4)
    model = Detector().eval()
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()})
    assert prepared.hb.devices["post"] == ("CPU", "module", "it is marked as outside the compiled program")
    prepared(x)
    fixed = convert_fx(prepared)
    got = fixed(x)
    results = {r.shape[1]: r for r in fixed.program(x).run(x)}
    boxes, best, labels = model.post([model.anchors], [results[2]], [results[4]])
    assert torch.equal(got[0], boxes[0]) and torch.equal(got[1], best[0]) and torch.equal(got[2], labels[0])
    assert torch.equal(got[3], torch.nonzero(results[2] > 0))
    assert compile_model(fixed, x, tmp_path / "net.hbm") == 0
    session = Session(tmp_path / "net.hbm")
    compiled = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert all(np.array_equal(r, results[r.shape[1]].numpy()) for r in compiled)
