"""Every model of shared/real as a user would set it up: preprocessing, calibration samples, configuration, a figure.

The preprocessing and the float figures are those of shared/real/README.md.
"""

from __future__ import annotations

import csv
import io
import json
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from real_pictures import average_precision, matched, nchw, regions, resized, rgb, suppressed

Feeds = dict[str, np.ndarray]
Run = Callable[[Feeds], list[np.ndarray]]
IMAGENET = (np.array([0.485, 0.456, 0.406]) * 255, np.array([0.229, 0.224, 0.225]) * 255)


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        name: for the table and as file prefix.
        model: the ONNX file.
        calibration: samples as the float model takes them.
        evaluate: figures of a model, by name; the first one counts.
        allowed: how far the first figure may fall (same unit); None where outputs are compared only.
        cosine: smallest allowed cosine of any output to the float model; None: not asked for.
        shapes: input shapes where the file leaves them open.
        picture: the graph takes pictures: (type, mean, std) that the configuration builds into it.
        split: which samples calibrate and which are evaluated, in words.
    """

    name: str
    model: Path
    calibration: list[Feeds]
    evaluate: Callable[[Run], dict[str, float]]
    allowed: float | None
    split: str
    cosine: float | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    picture: tuple[str, Sequence[float], Sequence[float]] | None = None


def accuracy(name: str, samples: Sequence[np.ndarray], labels: Sequence[int]) -> Callable[[Run], dict[str, float]]:
    """Percent of samples whose largest output is the label."""

    def evaluate(run: Run) -> dict[str, float]:
        right = [int(run({name: x})[0].argmax()) == label for x, label in zip(samples, labels, strict=True)]
        return {"top-1 %": 100 * float(np.mean(right))}

    return evaluate


def imagenet(root: Path, file: str, name: str, mean, std, full: bool, as_picture: bool = False) -> Case:
    folder = root / "imagenet"
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))

    def read(row: dict[str, str]) -> np.ndarray:
        image = rgb(folder / "images" / Path(row["file"]).name)
        top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
        return nchw(image[top : top + 224, left : left + 224], mean, std)

    # Every third image calibrates; the README's order is by class, so both parts see all kinds of pictures.
    held = [r for i, r in enumerate(rows) if i % 3]
    held = held if full or "mobilenet" in file else held[::2]
    return Case(
        name,
        folder / file,
        [{"input": read(r)} for r in rows[::3]],
        accuracy("input", [read(r) for r in held], [int(r["class_index"]) for r in held]),
        1.0,
        f"100 / {len(held)} images",
        picture=("rgb", mean, std) if as_picture else None,
    )


def mobilenet(root: Path, full: bool) -> Case:
    return imagenet(root, "mobilenetv2_1.0_224.onnx", "mobilenetv2", [127.5] * 3, [127.5] * 3, full)


def mobilenet_rgb(root: Path, full: bool) -> Case:
    return imagenet(root, "mobilenetv2_1.0_224.onnx", "mobilenetv2_rgb", [127.5] * 3, [127.5] * 3, full, True)


def squeezenet(root: Path, full: bool) -> Case:
    return imagenet(root, "squeezenet1_1.onnx", "squeezenet1_1", *IMAGENET, full)


def resnet(root: Path, full: bool) -> Case:
    data = np.load(root / "cifar10" / "cifar10_10k_2k.npz")

    def read(part: str, numbers: Sequence[int]) -> list[np.ndarray]:
        blob, at = data[f"{part}_jpeg"].tobytes(), data[f"{part}_offset"]
        files = (io.BytesIO(blob[at[i] : at[i + 1]]) for i in numbers)
        return [nchw(np.asarray(Image.open(f).convert("RGB")), *IMAGENET) for f in files]

    calibration = range(0, len(data["train_label"]), len(data["train_label"]) // 100)
    test = range(len(data["test_label"]))
    return Case(
        "resnet20",
        root / "cifar10" / "resnet20.onnx",
        [{"input": x} for x in read("train", calibration)],
        accuracy("input", read("test", test), data["test_label"].tolist()),
        1.0,
        f"{len(calibration)} / {len(test)} images",
    )


def vit(root: Path, full: bool, file: str = "vit_mnist.onnx") -> Case:
    data = np.load(root / "mnist_vit" / "mnist_t10k_subset.npz")

    def read(images: np.ndarray) -> list[np.ndarray]:
        return [nchw(i[..., None], 0.1307 * 255, 0.3081 * 255) for i in images]

    count = 2000 if full else 1000
    return Case(
        Path(file).stem,
        root / "mnist_vit" / file,
        [{"input": x} for x in read(data["calib_image"][:100])],
        accuracy("input", read(data["test_image"][:count]), data["test_label"][:count].tolist()),
        1.0,
        f"100 / {count} digits",
    )


def vit_layer_norm(root: Path, full: bool) -> Case:
    return vit(root, full, "vit_mnist_op17_layernorm.onnx")


def plates(root: Path, full: bool) -> Case:
    folder = root / "plates"
    signs = (folder / "chars.txt").read_text(encoding="utf-8").split("\n")[:68]
    with (folder / "labels.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))

    def read(row: dict[str, str]) -> np.ndarray:
        return nchw(resized(rgb(folder / "images" / row["file"])[..., ::-1], 24, 94), 127.5, 128.0)

    def text(logits: np.ndarray) -> str:
        best = logits[0].argmax(axis=0)
        kept = [c for i, c in enumerate(best) if c != 67 and (i == 0 or c != best[i - 1])]
        return "".join(signs[c] for c in kept)

    held = [r for i, r in enumerate(rows) if i % 5]
    images = [read(r) for r in held]

    def evaluate(run: Run) -> dict[str, float]:
        right = [text(run({"input": x})[0]) == r["plate"] for x, r in zip(images, held, strict=True)]
        return {"plates %": 100 * float(np.mean(right))}

    calibration = [{"input": read(r)} for r in rows[::5]]
    split = f"{len(calibration)} / {len(held)} plates"
    return Case("lprnet", folder / "lprnet.onnx", calibration, evaluate, 1.0, split)


def nanodet(root: Path, full: bool) -> Case:
    folder = root / "coco"
    truth = json.loads((folder / "instances.json").read_text())
    categories = sorted(c["id"] for c in truth["categories"])

    def read(path: Path) -> np.ndarray:
        return nchw(resized(rgb(path)[..., ::-1], 320, 320), [103.53, 116.28, 123.675], [57.375, 57.12, 58.395])

    def boxes(distances: np.ndarray, stride: int) -> np.ndarray:
        cells = 320 // stride
        share = np.exp(distances - distances.max(axis=-1, keepdims=True))
        sides = (share / share.sum(axis=-1, keepdims=True) * np.arange(8)).sum(axis=-1) * stride
        y, x = np.divmod(np.arange(cells * cells), cells)
        centre = (np.stack([x, y], 1) + 0.5) * stride
        return np.concatenate([centre - sides[:, :2], centre + sides[:, 2:]], 1).clip(0, 320)

    def evaluate(run: Run) -> dict[str, float]:
        found = []
        for entry in truth["images"]:
            out = run({"input.1": read(folder / "images" / entry["file_name"])})
            scores = np.concatenate([o[0] for o in out[:3]])
            drawn = np.concatenate(
                [boxes(o[0].reshape(-1, 4, 8), s) for o, s in zip(out[3:], (8, 16, 32), strict=True)]
            )
            drawn = drawn * (np.array([entry["width"], entry["height"]] * 2) / 320)
            here = []
            for c in np.flatnonzero((scores > 0.02).any(axis=0)):
                at = np.flatnonzero(scores[:, c] > 0.02)
                kept = at[suppressed(drawn[at], scores[at, c], 0.6)]
                here += [(entry["id"], categories[c], float(scores[i, c]), drawn[i]) for i in kept]
            found += sorted(here, key=lambda d: -d[2])[:100]
        ap, ap50 = average_precision(truth, found)
        return {"AP x100": 100 * ap, "AP50 x100": 100 * ap50}

    calibration = [{"input.1": read(p)} for p in sorted((folder / "calib").glob("*.jpg"))]
    split = f"{len(calibration)} / {len(truth['images'])} images"
    return Case("nanodet", folder / "nanodet_m_320.onnx", calibration, evaluate, 1.0, split)


def face(root: Path, full: bool, file: str = "version-RFB-320.onnx") -> Case:
    folder = root / "face"
    expected = json.loads((folder / "reference_boxes_float.json").read_text())
    paths = sorted((folder / "images").glob("*.jpg"))
    read = {p: nchw(resized(rgb(p), 240, 320), 127, 128) for p in paths}
    decodes = file == "version-RFB-320.onnx"
    held = paths[1::2]

    def evaluate(run: Run) -> dict[str, float]:
        hits = total = drawn = 0
        for path in held:
            scores, boxes = run({"input": read[path]})
            if not decodes:
                continue
            with Image.open(path) as picture:
                size = np.array(picture.size * 2)
            at = np.flatnonzero(scores[0, :, 1] > 0.7)
            kept = at[suppressed(boxes[0, at], scores[0, at, 1], 0.3)]
            real = np.array(expected[path.name], float).reshape(-1, 5)[:, :4]
            hits, total, drawn = hits + matched(boxes[0, kept] * size, real), total + len(real), drawn + len(kept)
        return {"boxes matched %": 100 * hits / total, "boxes drawn": drawn} if decodes else {}

    calibration = [{"input": read[p]} for p in paths[::2]]
    split = f"{len(calibration)} / {len(held)} photographs"
    return Case(Path(file).stem, folder / file, calibration, evaluate, None, split, cosine=0.99)


def face_simplified(root: Path, full: bool) -> Case:
    return face(root, full, "version-RFB-320_simplified.onnx")


def ocr_cls(root: Path, full: bool) -> Case:
    folder = root / "ocr"
    with (folder / "lines.csv").open() as stream:
        rows = list(csv.DictReader(stream))

    def read(row: dict[str, str]) -> np.ndarray:
        image = rgb(folder / "lines" / row["file"])[..., ::-1]
        width = min(192, int(np.ceil(48 * image.shape[1] / image.shape[0])))
        padded = np.zeros((1, 3, 48, 192), np.float32)
        padded[..., :width] = nchw(resized(image, 48, width), 127.5, 127.5)
        return padded

    calibration, held = rows[::3], [r for i, r in enumerate(rows) if i % 3]
    return Case(
        "ocr_cls",
        folder / "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        [{"x": read(r)} for r in calibration],
        accuracy("x", [read(r) for r in held], [int(r["rotated_180"]) for r in held]),
        1.0,
        f"{len(calibration)} / {len(held)} lines",
        shapes={"x": (1, 3, 48, 192)},
    )


def ocr_det(root: Path, full: bool) -> Case:
    folder = root / "ocr"
    size = 640

    def read(path: Path) -> np.ndarray:
        image = rgb(path)[..., ::-1]
        scale = size / max(image.shape[:2])
        height, width = (max(32, round(n * scale / 32) * 32) for n in image.shape[:2])
        padded = np.zeros((1, 3, size, size), np.float32)
        padded[:, :, :height, :width] = nchw(resized(image, height, width), *IMAGENET)
        return padded

    paths = sorted(p for p in (folder / "images").iterdir())
    held = [read(p) for p in paths[1::2]]
    truth: list[np.ndarray] = []

    def evaluate(run: Run) -> dict[str, float]:
        masks = [run({"x": x})[0][0, 0] > 0.3 for x in held]
        if not truth:  # the float model runs first
            truth.extend(masks)
        shared = [(a & b).sum() / max((a | b).sum(), 1) for a, b in zip(masks, truth, strict=True)]
        pairs = [(regions(a), regions(b)) for a, b in zip(masks, truth, strict=True)]
        hits, total = sum(matched(a, b) for a, b in pairs), sum(len(b) for _, b in pairs)
        return {"boxes matched %": 100 * hits / max(total, 1), "mask IoU %": 100 * float(np.mean(shared))}

    calibration = [{"x": read(p)} for p in paths[::2]]
    return Case(
        "ocr_det",
        folder / "ch_PP-OCRv3_det_infer.onnx",
        calibration,
        evaluate,
        None,
        f"{len(calibration)} / {len(held)} images at {size}x{size}",
        shapes={"x": (1, 3, size, size)},
    )


def vad(root: Path, full: bool) -> Case:
    import onnxruntime

    folder = root / "vad"
    model = folder / "silero_vad_openvino_16k.onnx"
    with wave.open(str(folder / "test_30s_16k.wav")) as stream:
        sound = np.frombuffer(stream.readframes(stream.getnframes()), np.int16).astype(np.float32) / 32768
    expected = np.load(folder / "reference_prob_float.npy").ravel()
    steps = np.concatenate([np.zeros(64, np.float32), sound])
    chunks = [steps[i * 512 : i * 512 + 576][None] for i in range(len(sound) // 512)][: len(expected)]

    def probabilities(run: Run, seen: list[Feeds] | None = None) -> np.ndarray:
        state, found = np.zeros((2, 1, 128), np.float32), []
        for chunk in chunks:
            feeds = {"input": chunk, "state": state}
            if seen is not None:
                seen.append(feeds)
            probability, state = run(feeds)
            found.append(float(probability[0, 0]))
        return np.array(found)

    def evaluate(run: Run) -> dict[str, float]:
        found = probabilities(run)
        agree = (found > 0.5) == (expected[: len(found)] > 0.5)
        return {
            "decisions as float %": 100 * float(agree.mean()),
            "mean error": float(np.abs(found - expected[: len(found)]).mean()),
        }

    seen: list[Feeds] = []
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    probabilities(lambda feeds: session.run(None, feeds), seen)
    calibration = seen[: len(seen) // 3 : 4]
    return Case("silero_vad", model, calibration, evaluate, None, f"{len(calibration)} / {len(chunks)} steps")


CASES: dict[str, Callable[[Path, bool], Case]] = {
    "mobilenetv2": mobilenet,
    "mobilenetv2_rgb": mobilenet_rgb,
    "resnet20": resnet,
    "lprnet": plates,
    "nanodet": nanodet,
    "vit": vit,
    "vit_layernorm": vit_layer_norm,
    "ocr_cls": ocr_cls,
    "face": face,
    "face_simplified": face_simplified,
    "ocr_det": ocr_det,
    "vad": vad,
    "squeezenet": squeezenet,
}
"""By the name that the command line takes; slow ones last."""
