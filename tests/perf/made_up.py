"""Programs written by hand, for what no small model shows: exact times, a thousand layers, hostile names."""

from __future__ import annotations

from hbtool.artifact.program import COPY, Engine, Instruction, LayerInfo, Program, Region
from hbtool.perf.facts import ModelFact, NodeFact, SegmentFact, TensorFact
from hbtool.target.job import Job
from hbtool.target.target import Target


def step(engine: Engine, layer: int, job: Job, *after: int, call: int = 0) -> Instruction:
    return Instruction(engine, 0, COPY if job.unit == "dma" else "Conv", {}, (), (), after, layer, job, call)


def load(moved: int) -> Job:
    return Job("dma", loaded_bytes=moved)


def store(moved: int) -> Job:
    return Job("dma", stored_bytes=moved)


def matrix(rows: int) -> Job:
    return Job("matrix", rows=rows, repeats=1, outputs=16, inputs=16)


def program(instructions: list[Instruction], names: list[str], target: Target) -> Program:
    layers = tuple(LayerInfo(n, "Conv", (1, 16, 8, 8), 1024, 1024, 16 * 16 * 64) for n in names)
    regions = (Region("image", "input", 4096), Region("logits", "output", 4096), Region("weights", "weights", 8192))
    return Program(
        "bpu_0", target.march, 1, target.onchip_bytes, 4096, regions, layers, tuple(instructions), "--O2 --core-num 1"
    )


def chain(layers: int, target: Target, prefix: str = "layer") -> Program:
    """Every layer loads weights, computes what waits for the layer before, and stores."""
    instructions: list[Instruction] = []
    computed: tuple[int, ...] = ()
    for number in range(layers):
        first = len(instructions)
        instructions.append(step("load", number, load(500 + number % 7 * 100)))
        instructions.append(step("matrix", number, matrix(64 + number % 5 * 64), first, *computed))
        instructions.append(step("store", number, store(300), first + 1))
        computed = (first + 1,)
    return program(instructions, [f"{prefix}/{n}" for n in range(layers)], target)


def model(compiled: Program, target: Target, name: str = "made_up", node: str = "dequantize") -> ModelFact:
    """A BPU segment and one Dequantize behind it."""
    image = TensorFact("image", (1, 3, 8, 8), "int8", 192)
    raw = TensorFact("logits", (1, 16, 8, 8), "int32", 4096)
    out = TensorFact("out", (1, 16, 8, 8), "float32", 4096)
    dequantize = NodeFact(node, "Dequantize", "dequantizes at the exit", True, ("logits",), (out,), 8192)
    segments = (
        SegmentFact("bpu_0", "BPU", (image,), (raw,), compiled),
        SegmentFact("cpu_0", "CPU", (raw,), (out,), None, (dequantize,), 12.5),
    )
    return ModelFact(name, target, "hbtool 0", (image,), (out,), segments)
