"""Pictures, drawn boxes and detection scores for the real models: only numpy and Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def rgb(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear without smoothing and with pixel centres at halves, as OpenCV does it; float32 [height, width, C]."""

    def taps(size: int, of: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((np.arange(size) + 0.5) * of / size - 0.5, 0, of - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, of - 1), (at - low).astype(np.float32)

    top, bottom, dy = taps(height, image.shape[0])
    left, right, dx = taps(width, image.shape[1])
    rows = image[top] * (1 - dy)[:, None, None] + image[bottom] * dy[:, None, None]
    return np.rint(rows[:, left] * (1 - dx)[None, :, None] + rows[:, right] * dx[None, :, None]).astype(np.float32)


def nchw(image: np.ndarray, mean, std) -> np.ndarray:
    """(x - mean) / std as float32 [1, C, H, W]."""
    scaled = (image.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def iou(a: np.ndarray, b: np.ndarray, b_is_crowd: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union of boxes x1 y1 x2 y2: [n, m]; against a crowd, over the area of `a` (COCO)."""
    a, b = a.reshape(-1, 1, 4), b.reshape(1, -1, 4)
    size = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    inner = size[..., 0] * size[..., 1]
    area_a, area_b = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b))
    union = area_a + area_b - inner
    if b_is_crowd is not None:
        union = np.where(b_is_crowd[None], area_a, union)
    return inner / np.maximum(union, 1e-9)


def suppressed(boxes: np.ndarray, scores: np.ndarray, limit: float) -> np.ndarray:
    """Indices that greedy non-maximum suppression keeps, best first."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while order.size:
        kept.append(order[0])
        order = order[1:][iou(boxes[order[0]], boxes[order[1:]])[0] <= limit]
    return np.array(kept, int)


def matched(found: np.ndarray, expected: np.ndarray, limit: float = 0.5) -> int:
    """How many expected boxes have a found box of their own at IoU `limit`."""
    if not len(found) or not len(expected):
        return 0
    overlap, count = iou(found, expected), 0
    while overlap.max(initial=0) >= limit:
        i, j = np.unravel_index(overlap.argmax(), overlap.shape)
        overlap[i], overlap[:, j] = -1, -1
        count += 1
    return count


def average_precision(truth: dict, found: list[tuple[int, int, float, np.ndarray]]) -> tuple[float, float]:
    """COCO AP and AP50: mean over classes and IoU 0.50..0.95, precision at 101 recalls, 100 detections per image.

    Args:
        truth: instances.json.
        found: (image id, category id, score, box x1 y1 x2 y2).
    """
    limits = np.linspace(0.5, 0.95, 10)
    real: dict[tuple[int, int], list[tuple[np.ndarray, bool]]] = {}
    for a in truth["annotations"]:
        x, y, w, h = a["bbox"]
        entry = (np.array([x, y, x + w, y + h]), bool(a["iscrowd"]))
        real.setdefault((a["category_id"], a["image_id"]), []).append(entry)
    drawn: dict[tuple[int, int], list[tuple[float, np.ndarray]]] = {}
    for image, category, score, box in found:
        drawn.setdefault((category, image), []).append((score, box))
    classes = sorted({c for (c, _), boxes in real.items() if any(not crowd for _, crowd in boxes)})
    table = []
    for category in classes:
        images = {i for c, i in (*real, *drawn) if c == category}
        parts = [_hits(drawn.get((category, i), []), real.get((category, i), []), limits) for i in sorted(images)]
        count = sum(sum(not crowd for _, crowd in real.get((category, i), [])) for i in images)
        scores = np.concatenate([p[0] for p in parts])
        order = np.argsort(-scores, kind="mergesort")
        hit = np.concatenate([p[1] for p in parts], axis=1)[:, order]
        ignored = np.concatenate([p[2] for p in parts], axis=1)[:, order]
        table.append([_precision(h[~g], count) for h, g in zip(hit, ignored, strict=True)])
    values = np.array(table)
    return float(values.mean()), float(values[:, 0].mean())


def _hits(drawn, real, limits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores [n], and per IoU limit which detections hit [t, n] and which do not count (crowds) [t, n]."""
    drawn = sorted(drawn, key=lambda d: -d[0])[:100]
    scores = np.array([d[0] for d in drawn])
    hit = np.zeros((len(limits), len(drawn)), bool)
    ignored = np.zeros_like(hit)
    if not drawn or not real:
        return scores, hit, ignored
    crowd = np.array([c for _, c in real])
    overlap = iou(np.array([d[1] for d in drawn]), np.array([b for b, _ in real]), crowd)
    for t, limit in enumerate(limits):
        free = np.ones(len(real), bool)
        for d in range(len(drawn)):
            plain = np.where(free & ~crowd, overlap[d], -1.0)
            if plain.max() >= limit:
                free[plain.argmax()] = False
                hit[t, d] = True
            else:
                ignored[t, d] = bool((overlap[d][crowd] >= limit).any())
    return scores, hit, ignored


def _precision(hit: np.ndarray, count: int) -> float:
    if not hit.size:
        return 0.0
    right = np.cumsum(hit)
    recall, precision = right / count, right / np.arange(1, hit.size + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.where(at < hit.size, best[np.minimum(at, hit.size - 1)], 0.0).mean())


def regions(mask: np.ndarray) -> np.ndarray:
    """Bounding boxes x1 y1 x2 y2 of the connected parts of a mask [H, W] with at least 16 pixels."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    found = ndimage.find_objects(labels)
    sizes = np.bincount(labels.ravel())[1:]
    boxes = [(s[1].start, s[0].start, s[1].stop, s[0].stop) for s, n in zip(found, sizes, strict=True) if n >= 16]
    return np.array(boxes, float).reshape(-1, 4)
