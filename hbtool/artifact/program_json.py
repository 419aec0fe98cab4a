"""A `Program` as JSON text and back. Reading trusts nothing: every number is checked before anything is built from it.

Views, jobs, attributes and names that repeat are stored once and referred to by number, so that a program of some
thousand instructions stays small.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any, TypeVar

from hbtool.artifact.program import (
    ENGINES,
    ITEM_BYTES,
    REGION_KINDS,
    Instruction,
    LayerInfo,
    Program,
    Region,
    View,
)
from hbtool.errors import ArtifactError
from hbtool.target.job import Job

VERSION = 1
LARGEST_TEXT_BYTES = 256 << 20
LARGEST_SPACE_BYTES = 1 << 36
LARGEST_NUMBER = 1 << 48
MOST_ITEMS = 4_000_000
MOST_AXES = 16
LONGEST_NAME = 4096

_T = TypeVar("_T")
_UNITS = ("matrix", "vector", "dma")


class _Table:
    """Items stored once, by number."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, key: Hashable, item: Any) -> int:
        found = self._numbers.setdefault(key, len(self.items))
        if found == len(self.items):
            self.items.append(item)
        return found


def write_program(program: Program) -> str:
    """The program as JSON text (the same program gives the same text)."""
    views, jobs, names, attributes = _Table(), _Table(), _Table(), _Table()

    def view(v: View | None) -> int:
        return -1 if v is None else views.number(v, [v.space, v.offset, v.type, list(v.shape), list(v.strides)])

    def attribute(a: Mapping[str, Any]) -> int:
        text = json.dumps(a, sort_keys=True)
        return attributes.number(text, json.loads(text))

    instructions = [
        [
            ENGINES.index(i.engine),
            i.core,
            names.number(i.op, i.op),
            attribute(i.attributes),
            [view(v) for v in i.inputs],
            [view(v) for v in i.outputs],
            list(i.after),
            i.layer,
            jobs.number(i.job, list(astuple(i.job))),
            i.call,
        ]
        for i in program.instructions
    ]
    regions = [[r.name, r.kind, r.bytes, view(r.view)] for r in program.regions]
    data = {
        "version": VERSION,
        "name": program.name,
        "march": program.march,
        "cores": program.cores,
        "onchip_bytes": program.onchip_bytes,
        "onchip_peak_bytes": program.onchip_peak_bytes,
        "options": program.options,
        "regions": regions,
        "layers": [[x.name, x.op, list(x.shape), x.aligned_bytes, x.bytes, x.macs] for x in program.layers],
        "operations": names.items,
        "attributes": attributes.items,
        "views": views.items,
        "jobs": jobs.items,
        "instructions": instructions,
    }
    return json.dumps(data, separators=(",", ":"))


def read_program(text: str | bytes, where: str = "program") -> Program:
    """The program that JSON text describes.

    Raises:
        ArtifactError: it is not JSON, of another version, or any number, name or reference is out of range.
    """
    return _Reader(where).program(text)


class _Reader:
    def __init__(self, where: str) -> None:
        self.where = where

    def fail(self, message: str) -> ArtifactError:
        return ArtifactError(
            f"the program is damaged: {message}", where=self.where, hint="Compile the model again with this hbtool."
        )

    # ------------------------------------------------------------------------------------------------- small checks

    def whole(self, value: Any, low: int, high: int, what: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise self.fail(f"{what} is not a whole number from {low} to {high}")
        return value

    def text(self, value: Any, what: str) -> str:
        if type(value) is not str or len(value) > LONGEST_NAME:
            raise self.fail(f"{what} is not a text of at most {LONGEST_NAME} characters")
        return value

    def items(self, value: Any, what: str, most: int = MOST_ITEMS, exactly: int | None = None) -> list[Any]:
        if type(value) is not list or len(value) > most or (exactly is not None and len(value) != exactly):
            raise self.fail(f"{what} is not a list of {exactly if exactly is not None else f'at most {most}'} items")
        return value

    def pick(self, table: Sequence[_T], number: Any, what: str) -> _T:
        return table[self.whole(number, 0, len(table) - 1, what)]

    def each(self, data: Any, what: str, read: Callable[[Any], _T]) -> list[_T]:
        return [read(item) for item in self.items(data, what)]

    # ------------------------------------------------------------------------------------------------------- parts

    def program(self, text: str | bytes) -> Program:
        if len(text) > LARGEST_TEXT_BYTES:
            raise self.fail(f"it is larger than {LARGEST_TEXT_BYTES} bytes")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.fail(f"it is not JSON ({error})") from None
        if type(data) is not dict:
            raise self.fail("it is not a JSON object")
        if data.get("version") != VERSION:
            raise ArtifactError(
                f"the program has version {str(data.get('version'))[:20]!r}, this hbtool reads {VERSION}",
                where=self.where,
                hint="Use the hbtool that wrote it, or compile the model again.",
            )
        get = data.get
        cores = self.whole(get("cores"), 1, 64, "cores")
        onchip = self.whole(get("onchip_bytes"), 0, LARGEST_SPACE_BYTES, "onchip_bytes")
        region_rows = [self.items(r, "a region", exactly=4) for r in self.items(get("regions"), "regions")]
        sizes = [onchip, *(self.whole(r[2], 0, LARGEST_SPACE_BYTES, "a region's size") for r in region_rows)]
        views = self.each(get("views"), "views", lambda v: self.view(v, sizes))
        regions = tuple(self.region(row, index, views) for index, row in enumerate(region_rows))
        layers = tuple(self.each(get("layers"), "layers", self.layer))
        names = self.each(get("operations"), "operations", lambda v: self.text(v, "an operation"))
        attributes = self.each(get("attributes"), "attributes", self.attributes)
        jobs = self.each(get("jobs"), "jobs", self.job)
        instructions: list[Instruction] = []
        for row in self.items(get("instructions"), "instructions"):
            instructions.append(self.instruction(row, len(instructions), cores, names, attributes, views, layers, jobs))
            if len(instructions) > 1 and instructions[-1].call < instructions[-2].call:
                raise self.fail("function calls are out of order")
        return Program(
            self.text(get("name"), "name"),
            self.text(get("march"), "march"),
            cores,
            onchip,
            self.whole(get("onchip_peak_bytes"), 0, onchip, "onchip_peak_bytes"),
            regions,
            layers,
            tuple(instructions),
            self.text(get("options"), "options"),
        )

    def view(self, data: Any, sizes: list[int]) -> View:
        space, offset, kind, shape, strides = self.items(data, "a view", exactly=5)
        size = self.pick(sizes, space, "the space of a view")
        if type(kind) is not str or kind not in ITEM_BYTES:
            raise self.fail("the element type of a view is unknown")
        axes = self.items(shape, "a shape", MOST_AXES)
        steps = self.items(strides, "strides", exactly=len(axes))
        view = View(
            space,
            self.whole(offset, 0, size, "an offset"),
            kind,
            tuple(self.whole(n, 0, LARGEST_NUMBER, "a size") for n in axes),
            tuple(self.whole(n, -LARGEST_NUMBER, LARGEST_NUMBER, "a stride") for n in steps),
        )
        low, high = view.span
        count = view.item_bytes
        for n in view.shape:
            count *= n
        # More elements than bytes would mean a view that repeats itself: a small file could ask for huge arrays.
        if low < 0 or high > size or count > size:
            raise self.fail(f"a view reaches outside its memory of {size} bytes")
        return view

    def region(self, row: list[Any], index: int, views: list[View]) -> Region:
        name, kind, size, view = row
        if kind not in REGION_KINDS:
            raise self.fail("the kind of a region is unknown")
        if kind in ("input", "output"):
            place = self.pick(views, view, "the view of a region")
            if place.space != index + 1:
                raise self.fail("a region's view lies in another memory")
            return Region(self.text(name, "a region's name"), kind, size, place)
        return Region(self.text(name, "a region's name"), kind, size)

    def layer(self, row: Any) -> LayerInfo:
        name, op, shape, aligned, size, macs = self.items(row, "a layer", exactly=6)
        sizes = (self.whole(n, 0, LARGEST_NUMBER, "a layer's shape") for n in self.items(shape, "a shape", MOST_AXES))
        return LayerInfo(
            self.text(name, "a layer's name"),
            self.text(op, "a layer's operator"),
            tuple(sizes),
            *(self.whole(n, 0, 1 << 62, "a layer's number") for n in (aligned, size, macs)),
        )

    def job(self, row: Any) -> Job:
        values = self.items(row, "a job", exactly=len(fields(Job)))
        if values[0] not in _UNITS:
            raise self.fail("the unit of a job is unknown")
        numbers = [self.whole(n, 0, LARGEST_NUMBER, "a job's number") for n in values[1:]]
        return Job(values[0], *numbers)

    def attributes(self, data: Any) -> dict[str, Any]:
        if type(data) is not dict or len(data) > 64:
            raise self.fail("attributes are not a small JSON object")
        return {self.text(k, "an attribute's name"): self.value(v) for k, v in data.items()}

    def value(self, value: Any) -> Any:
        if type(value) is list:
            return tuple(self.scalar(v) for v in self.items(value, "an attribute"))
        return self.scalar(value)

    def scalar(self, value: Any) -> Any:
        if type(value) is int:
            return self.whole(value, -LARGEST_NUMBER, LARGEST_NUMBER, "an attribute")
        if type(value) is str:
            return self.text(value, "an attribute")
        if type(value) is float:
            return value
        raise self.fail("an attribute is neither a number nor a text")

    def instruction(
        self,
        row: Any,
        number: int,
        cores: int,
        names: list[str],
        attributes: list[dict[str, Any]],
        views: list[View],
        layers: tuple[LayerInfo, ...],
        jobs: list[Job],
    ) -> Instruction:
        engine, core, op, attribute, inputs, outputs, after, layer, job, call = self.items(
            row, "an instruction", exactly=10
        )
        return Instruction(
            self.pick(ENGINES, engine, "an engine"),
            self.whole(core, 0, cores - 1, "a core"),
            self.pick(names, op, "an operation's number"),
            self.pick(attributes, attribute, "the number of attributes"),
            tuple(None if v == -1 else self.pick(views, v, "an operand") for v in self.some(inputs, "operands")),
            tuple(self.pick(views, v, "a result") for v in self.some(outputs, "results")),
            tuple(self.whole(n, 0, number - 1, "a dependency") for n in self.some(after, "dependencies")),
            self.whole(layer, 0, len(layers) - 1, "a layer's number"),
            self.pick(jobs, job, "a job's number"),
            self.whole(call, 0, number, "a call"),
        )

    def some(self, value: Any, what: str) -> Iterable[Any]:
        return self.items(value, what, 4096)
