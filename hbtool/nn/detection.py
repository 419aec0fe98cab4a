"""Detection post-processing in float: it stands after the DeQuantStub and runs on the CPU, outside the BPU program."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hbtool.errors import UsageError
from hbtool.nn import boxes as box
from hbtool.utils.fx_helper import wrap

Sizes = Sequence[Sequence[int]] | Tensor | None


def _size(image: Sequence[int] | None, sizes: Sizes, index: int) -> Sequence[float] | None:
    if sizes is not None:
        return [float(v) for v in sizes[index]]
    return None if image is None else [float(v) for v in image]


def _best(scores: Tensor, count: int | None) -> Tensor:
    """Indices of the `count` highest scores, best first (all where None)."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order if count is None else order[:count]


@wrap(skip_compile=True)
class DetectionPostProcess(nn.Module):
    """Anchors, scores and regressions of a detector to boxes: filter, decode, clip, suppress.

    Args:
        score_threshold: boxes whose best score is not above it go.
        regression_scale: what the regressions (dx, dy, dw, dh) are divided by.
        background_class_idx: class that is no object.
        size_threshold: boxes narrower or lower than this go.
        image_size: (height, width) that boxes are clipped to.
        pre_decode_top_n: boxes of a level that are decoded at most.
        post_decode_top_n: boxes of a level that stay after decoding.
        iou_threshold: overlap above which the weaker box of a class goes; None = no suppression.
        pre_nms_top_n: boxes that enter the suppression at most.
        post_nms_top_n: boxes that leave it at most.
        nms_on_each_level: suppress inside each level before the levels are joined.
        mode: `normal`, or `yolo`: the first score is the objectness, which filters and multiplies the others, and dx
            and dy are pixels.
    """

    def __init__(
        self,
        score_threshold: float = 0.0,
        regression_scale: Sequence[float] | None = None,
        background_class_idx: int | None = None,
        size_threshold: float | None = None,
        image_size: Sequence[int] | None = None,
        pre_decode_top_n: int | None = None,
        post_decode_top_n: int | None = None,
        iou_threshold: float | None = None,
        pre_nms_top_n: int | None = None,
        post_nms_top_n: int | None = None,
        nms_on_each_level: bool = False,
        mode: str = "normal",
    ) -> None:
        super().__init__()
        if mode not in ("normal", "yolo"):
            raise UsageError(f"unknown mode {mode!r}.", where="DetectionPostProcess", hint="Use normal or yolo.")
        self.score_threshold, self.background_class_idx = score_threshold, background_class_idx
        self.regression_scale = tuple(regression_scale or (1.0, 1.0, 1.0, 1.0))
        self.size_threshold, self.image_size, self.iou_threshold = size_threshold, image_size, iou_threshold
        self.pre_decode_top_n, self.post_decode_top_n = pre_decode_top_n, post_decode_top_n
        self.pre_nms_top_n, self.post_nms_top_n = pre_nms_top_n, post_nms_top_n
        self.nms_on_each_level, self.mode = nms_on_each_level, mode

    def forward(
        self,
        boxes: Sequence[Tensor],
        scores: Sequence[Tensor],
        regressions: Sequence[Tensor],
        image_shapes: Sizes = None,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(boxes [M, 4], scores [M], labels [M] int64) of each image, best first.

        Args:
            boxes: anchors of each level, [K, 4], [N, K, 4] or [N, A * 4, H, W].
            scores: of each level, [N, K, C] or [N, A * C, H, W], after the activation of the user's choice.
            regressions: of each level, [N, K, 4] or [N, A * 4, H, W].
            image_shapes: (height, width) of each image instead of `image_size`.
        """
        levels = []
        for anchors, score, delta in zip(boxes, scores, regressions, strict=True):
            moves = box.per_anchor(delta, 4)
            places = box.per_anchor(anchors, 4).expand(moves.shape[0], -1, -1)
            count = score.numel() // (moves.shape[0] * moves.shape[1])
            levels.append((places, box.per_anchor(score, count), moves))
        found = [self._image(levels, i, image_shapes) for i in range(levels[0][0].shape[0])]
        return tuple(f[0] for f in found), tuple(f[1] for f in found), tuple(f[2] for f in found)

    def _image(
        self, levels: list[tuple[Tensor, Tensor, Tensor]], index: int, shapes: Sizes
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = []
        for anchors, scores, deltas in levels:
            part = self._level(anchors[index], scores[index], deltas[index], _size(self.image_size, shapes, index))
            parts.append(self._suppressed(*part) if self.nms_on_each_level else part)
        joined = tuple(torch.cat([p[k] for p in parts]) for k in range(3))
        boxes, scores, labels = joined if self.nms_on_each_level else self._suppressed(*joined)
        order = _best(scores, self.post_nms_top_n)
        return boxes[order], scores[order], labels[order]

    def _level(
        self, anchors: Tensor, scores: Tensor, deltas: Tensor, size: Sequence[float] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.mode == "yolo":
            objectness, scores = scores[:, :1], scores[:, 1:]
            scores = torch.where(objectness > self.score_threshold, scores * objectness, float("-inf"))
        if self.background_class_idx is not None:
            scores = scores.clone()
            scores[:, self.background_class_idx] = float("-inf")
        best, labels = scores.max(1)
        order = _best(best, self.pre_decode_top_n)
        order = order[best[order] > self.score_threshold]
        boxes = box.decode(anchors[order], deltas[order], self.regression_scale, self.mode == "yolo")
        if size is not None:
            boxes = box.clip_to_image(boxes, *size)
        best, labels = best[order], labels[order]
        if self.size_threshold is not None:
            large = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= self.size_threshold
            boxes, best, labels = boxes[large], best[large], labels[large]
        order = _best(best, self.post_decode_top_n)
        return boxes[order], best[order], labels[order]

    def _suppressed(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        order = _best(scores, self.pre_nms_top_n)
        boxes, scores, labels = boxes[order], scores[order], labels[order]
        if self.iou_threshold is None:
            return boxes, scores, labels
        kept = box.suppress(boxes, scores, labels, self.iou_threshold)
        return boxes[kept], scores[kept], labels[kept]


@wrap(skip_compile=True)
class DetectionPostProcessV1(nn.Module):
    """Decode and suppress, one box per anchor. The vendor's BERNOULLI2 has it on the BPU; hbtool computes it in float.

    Args:
        num_classes: classes of each branch.
        box_filter_threshold: boxes whose best score is not above it go.
        class_offsets: added to the class numbers of each branch.
        use_clippings: clip boxes to the image.
        image_size: (height, width).
        nms_threshold: overlap above which the weaker box of a class goes.
        pre_nms_top_k: boxes that enter the suppression at most.
        post_nms_top_k: boxes that leave it at most.
        nms_padding_mode: None, `pad_zero` (zeros up to post_nms_top_k) or `rollover` (repeats from the start).
        nms_margin: the weaker box stays unless its score is lower by more than this.
        use_stable_sort: accepted for compatibility; sorting is stable.
        bbox_min_hw: smallest height and width of a box that stays.
    """

    def __init__(
        self,
        num_classes: int,
        box_filter_threshold: float,
        class_offsets: Sequence[int],
        use_clippings: bool,
        image_size: Sequence[int],
        nms_threshold: float,
        pre_nms_top_k: int,
        post_nms_top_k: int,
        nms_padding_mode: str | None = None,
        nms_margin: float = 0.0,
        use_stable_sort: bool | None = None,
        bbox_min_hw: Sequence[float] = (0, 0),
    ) -> None:
        super().__init__()
        if nms_padding_mode not in (None, "pad_zero", "rollover"):
            raise UsageError(
                f"unknown nms_padding_mode {nms_padding_mode!r}.",
                where="DetectionPostProcessV1",
                hint="Use None, pad_zero or rollover.",
            )
        self.num_classes, self.class_offsets = num_classes, class_offsets
        self.box_filter_threshold = box_filter_threshold
        self.use_clippings, self.image_size, self.nms_threshold = use_clippings, image_size, nms_threshold
        self.pre_nms_top_k, self.post_nms_top_k = pre_nms_top_k, post_nms_top_k
        self.nms_padding_mode, self.nms_margin, self.bbox_min_hw = nms_padding_mode, nms_margin, bbox_min_hw

    def forward(
        self, data: Sequence[Tensor], anchors: Sequence[Tensor], image_sizes: Sizes = None
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(boxes [M, 4], scores [M], classes [M] int64) of each image.

        Args:
            data: of each branch, [N, A * (num_classes + 4), H, W]: class scores, then dx, dy, dw, dh.
            anchors: of each branch, [K, 4], [N, K, 4] or [N, A * 4, H, W].
            image_sizes: (height, width) of each image instead of `image_size`.
        """
        rows = [box.per_anchor(x, self.num_classes + 4) for x in data]
        places = [box.per_anchor(a, 4).expand(r.shape[0], -1, -1) for a, r in zip(anchors, rows, strict=True)]
        return [self._image([r[i] for r in rows], [p[i] for p in places], i, image_sizes) for i in range(len(rows[0]))]

    def _image(
        self, rows: list[Tensor], places: list[Tensor], index: int, sizes: Sizes
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = []
        for row, anchors, offset in zip(rows, places, self.class_offsets, strict=True):
            best, label = row[:, : self.num_classes].max(1)
            parts.append((box.decode(anchors, row[:, self.num_classes :]), best, label + offset))
        boxes, scores, labels = (torch.cat([p[k] for p in parts]) for k in range(3))
        size = _size(self.image_size, sizes, index)
        if self.use_clippings and size is not None:
            boxes = box.clip_to_image(boxes, *size)
        height_width = boxes[:, [3, 2]] - boxes[:, [1, 0]]
        smallest = torch.tensor(self.bbox_min_hw, dtype=boxes.dtype, device=boxes.device)
        fits = (scores > self.box_filter_threshold) & (height_width >= smallest).all(1)
        boxes, scores, labels = boxes[fits], scores[fits], labels[fits]
        order = _best(scores, self.pre_nms_top_k)
        boxes, scores, labels = boxes[order], scores[order], labels[order]
        kept = box.suppress(boxes, scores, labels, self.nms_threshold, self.nms_margin)[: self.post_nms_top_k]
        return self._padded(boxes[kept], scores[kept], labels[kept])

    def _padded(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        missing = self.post_nms_top_k - len(boxes)
        if self.nms_padding_mode is None or missing <= 0:
            return boxes, scores, labels
        if self.nms_padding_mode == "rollover" and len(boxes):
            places = torch.arange(self.post_nms_top_k, device=boxes.device) % len(boxes)
            return boxes[places], scores[places], labels[places]
        joined = [torch.cat([t, t.new_zeros(missing, *t.shape[1:])]) for t in (boxes, scores, labels)]
        return joined[0], joined[1], joined[2]


@wrap(skip_compile=True)
class RcnnPostProcess(nn.Module):
    """The second stage of a two-stage detector to boxes.

    Args:
        image_size: (height, width) that boxes are clipped to.
        nms_threshold: overlap above which the weaker box of a class goes.
        box_filter_threshold: scores not above it go.
        num_classes: classes without the background.
        post_nms_top_k: rows of the result.
        delta_mean: added to the regressions, after the multiplication.
        delta_std: multiplies the regressions.
    """

    def __init__(
        self,
        image_size: Sequence[int] = (1024, 1024),
        nms_threshold: float = 0.3,
        box_filter_threshold: float = 0.1,
        num_classes: int = 1,
        post_nms_top_k: int = 100,
        delta_mean: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        delta_std: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.image_size, self.nms_threshold, self.num_classes = image_size, nms_threshold, num_classes
        self.box_filter_threshold, self.post_nms_top_k = box_filter_threshold, post_nms_top_k
        self.delta_mean, self.delta_std = tuple(delta_mean), tuple(delta_std)

    def forward(self, boxes: Sequence[Tensor], scores: Tensor, deltas: Tensor, image_sizes: Sizes = None) -> Tensor:
        """[N, post_nms_top_k, 6]: left, top, right, bottom, score, class; missing rows are -1.

        Args:
            boxes: proposals of each image, [R, 4].
            scores: [all R, num_classes] or with the background in column 0; trailing sizes of 1 are dropped.
            deltas: [all R, 4] or one group of 4 per column of `scores`.
            image_sizes: (height, width) of each image instead of `image_size`.
        """
        rows, moves = scores.flatten(1), deltas.flatten(1)
        skip = rows.shape[1] - self.num_classes
        counts = [len(b.reshape(-1, 4)) for b in boxes]
        parts = zip(boxes, torch.split(rows, counts), torch.split(moves, counts), strict=True)
        return torch.stack(
            [self._image(b.reshape(-1, 4), s, d, skip, _size(self.image_size, image_sizes, i))
             for i, (b, s, d) in enumerate(parts)]
        )  # fmt: skip

    def _image(self, boxes: Tensor, scores: Tensor, deltas: Tensor, skip: int, size: Sequence[float] | None) -> Tensor:
        mean, std = (torch.tensor(v).to(deltas) for v in (self.delta_mean, self.delta_std))
        found = []
        for label in range(self.num_classes):
            column = label + skip
            group = deltas if deltas.shape[1] == 4 else deltas[:, 4 * column : 4 * column + 4]
            decoded = box.decode(boxes, group * std + mean)
            if size is not None:
                decoded = box.clip_to_image(decoded, *size)
            score = scores[:, column]
            fits = score > self.box_filter_threshold
            rows = torch.cat([decoded, score[:, None], torch.full_like(score[:, None], float(label))], 1)[fits]
            found.append(rows[box.suppress(rows[:, :4], rows[:, 4], rows[:, 5], self.nms_threshold)])
        rows = torch.cat(found)
        rows = rows[_best(rows[:, 4], self.post_nms_top_k)]
        missing = self.post_nms_top_k - len(rows)
        return torch.cat([rows, rows.new_full((missing, 6), -1.0)])
