"""One typed record per model input, from the keys that list a part per input."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hbtool.config.input_rules import check_image, check_types, settle_norm
from hbtool.config.input_section import InputParameters
from hbtool.config.marches import is_nash
from hbtool.config.notes import Notebook, NoteKind, did_you_mean
from hbtool.config.paths import resolve
from hbtool.config.schema import LoadedConfig
from hbtool.config.section import keys_of
from hbtool.errors import ConfigError

Dim = int | str | None
PER_INPUT = tuple(name for name, key in keys_of(InputParameters).items() if key.per_input)
RESIZER_LIMIT = 18432
"""height·width of a resizer input stays below this."""


@dataclass(frozen=True)
class ModelInput:
    """An input as the model declares it; an open dimension is a name, None, 0 or -1."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class InputConfig:
    """Everything the configuration says about one input.

    ``shape`` is in ``layout_train`` order with the batch of one sample; ``mean``, ``scale`` and ``std`` hold one value
    or one per channel, in 0..255 units of ``type_train``, or are None where they do not apply. The preprocessing is
    (x - mean) · scale, or (x - mean) / std. ``cal_data_type`` is the type of raw sample files (.npy carry their own).
    ``separate``: the application feeds the images of a batch one by one.
    """

    name: str
    type_rt: str
    type_train: str
    layout_rt: str
    layout_train: str
    space_and_range: str
    shape: tuple[int, ...]
    norm_type: str
    mean: tuple[float, ...] | None
    scale: tuple[float, ...] | None
    std: tuple[float, ...] | None
    cal_data_dir: Path | None
    cal_data_type: str
    source: str
    batch: int = 1
    separate: bool = False

    @property
    def is_image(self) -> bool:
        """Whether the input is anything but a featuremap."""
        return self.type_train != "featuremap"

    @property
    def channels(self) -> int:
        """Size of the channel axis of a 4-D input."""
        return self.shape[1] if self.layout_train == "NCHW" else self.shape[3]

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of a 4-D input."""
        return self.shape[2:4] if self.layout_train == "NCHW" else self.shape[1:3]  # type: ignore[return-value]


class Draft:
    """One input while it is being resolved: access to its parts, and errors at their lines."""

    def __init__(self, loaded: LoadedConfig, book: Notebook, index: int, count: int, name: str) -> None:
        self.loaded, self.book, self.index, self.count, self.name = loaded, book, index, count, name
        self.march = loaded.config.march

    def part(self, key: str) -> str | None:
        """The word of this input for ``key``."""
        value = _part(self.loaded, key, self.index)
        return value if isinstance(value, str) else None

    def numbers(self, key: str) -> tuple[float, ...] | None:
        """The numbers of this input for ``key``."""
        value = _part(self.loaded, key, self.index)
        return tuple(float(n) for n in value) if isinstance(value, tuple) else None

    def error(self, key: str, message: str, hint: str) -> ConfigError:
        """The error about ``key`` of this input."""
        section = "calibration_parameters" if key.startswith("cal_") or key == "preprocess_on" else "input_parameters"
        section = "compiler_parameters" if key == "input_source" else section
        return ConfigError(f"{key}: {self.label}{message}", where=str(self.loaded.place(section, key)), hint=hint)

    def note(self, key: str, message: str, kind: NoteKind) -> None:
        """Write down a remark about ``key`` of this input."""
        section = "calibration_parameters" if key.startswith("cal_") else "input_parameters"
        place = self.loaded.place(section, key)
        self.book.add(place, f"{section}.{key}", f"{key}: {self.label}{message}", kind)

    @property
    def label(self) -> str:
        """The input's name as the beginning of a sentence, where there is more than one."""
        return f"input {self.name!r}: " if self.count > 1 else ""


def _part(loaded: LoadedConfig, key: str, index: int) -> object | None:
    group = loaded.calibration_parameters if key.startswith("cal_") else loaded.input_parameters
    values = getattr(group, key)
    if key == "norm_type" and len(values) == 1:
        return values[0]
    return values[index] if index < len(values) else None


def resolve_inputs(
    loaded: LoadedConfig, model_inputs: Sequence[ModelInput], book: Notebook | None = None
) -> tuple[InputConfig, ...]:
    """One InputConfig per model input, in the model's order.

    Raises:
        ConfigError: names, counts, types, shapes or numbers that do not fit the model, at the line of the key.
    """
    book = book if book is not None else Notebook(loaded.strict)
    names = _order(loaded, model_inputs)
    _check_counts(loaded, len(model_inputs), book)
    by_name = {model_input.name: model_input for model_input in model_inputs}
    _check_separate_names(loaded, names)
    _check_sources(loaded, names, book)
    found: dict[str, InputConfig] = {}
    for index, name in enumerate(names):
        draft = Draft(loaded, book, index, len(names), name)
        found[name] = _resolve(draft, _shape(draft, by_name[name]))
    _check_part_names(loaded, found)
    return tuple(found[model_input.name] for model_input in model_inputs)


def check_declared_inputs(loaded: LoadedConfig, book: Notebook) -> None:
    """Everything about inputs that needs no model: counts, legal pairs, and shapes where the file states them."""
    names = loaded.input_parameters.input_name
    count = len(names) or len(loaded.input_parameters.input_type_rt)
    _check_counts(loaded, count, book)
    _check_duplicates(loaded)
    for index in range(count):
        name = (names[index] if names else None) or f"#{index + 1}"
        draft = Draft(loaded, book, index, count, name)
        shape = _part(loaded, "input_shape", index)
        if isinstance(shape, tuple):
            _resolve(draft, tuple(int(size) for size in shape))
        else:
            check_types(draft)
            settle_norm(draft)


def _check_counts(loaded: LoadedConfig, expected: int, book: Notebook) -> None:
    for key in (*PER_INPUT, "cal_data_dir", "cal_data_type"):
        section = "calibration_parameters" if key.startswith("cal_") else "input_parameters"
        values = list(
            getattr(loaded.calibration_parameters if key.startswith("cal_") else loaded.input_parameters, key)
        )
        while len(values) > expected and values[-1] is None:
            values.pop()  # 'nv12;' says one thing
        if not values or len(values) == expected:
            continue
        place = loaded.place(section, key)
        if key == "norm_type" and (values == ["no_preprocess"] or is_nash(loaded.config.march)):
            continue
        many = "" if expected == 1 else "s"
        channels = key in ("mean_value", "scale_value", "std_value")
        advice = "Channels of one input are separated by blanks; " if channels and expected == 1 else ""
        raise ConfigError(
            f"{key}: {len(values)} part{'s' if len(values) > 1 else ''} for {expected} input{many}.",
            where=str(place),
            hint=f"{advice}{'give' if advice else 'Give'} {expected} part{many} (';' between) in input_name's order.",
        )


def _check_duplicates(loaded: LoadedConfig) -> None:
    names = [name for name in loaded.input_parameters.input_name if name]
    for index, name in enumerate(names):
        if name in names[:index]:
            where = str(loaded.place("input_parameters", "input_name"))
            raise ConfigError(f"input_name: {name!r} is listed twice.", where=where, hint="List every input once.")


def _order(loaded: LoadedConfig, model_inputs: Sequence[ModelInput]) -> list[str]:
    """The model's input names in the order the configuration lists them."""
    known = [model_input.name for model_input in model_inputs]
    place = str(loaded.place("input_parameters", "input_name"))
    listed = [name for name in loaded.input_parameters.input_name if name]
    if not listed:
        if len(known) > 1:
            hint = f"Write input_name: '{'; '.join(known)}', and every other per-input key in that order."
            raise ConfigError(
                f"input_name: mandatory, since the model has {len(known)} inputs.", where=place, hint=hint
            )
        return known
    for name in listed:
        if name not in known:
            hint = did_you_mean(name, known) or f"The model's inputs are {', '.join(known)}."
            raise ConfigError(f"input_name: the model has no input {name!r}.", where=place, hint=hint)
    missing = [name for name in known if name not in listed]
    if missing:
        hint = f"Write input_name: '{'; '.join([*listed, *missing])}' and a part for each in the other keys."
        raise ConfigError(f"input_name: {', '.join(missing)} missing.", where=place, hint=hint)
    return listed


def _check_part_names(loaded: LoadedConfig, found: Mapping[str, InputConfig]) -> None:
    """The inputs that separate_batch makes must not be called as others are."""
    for entry in found.values():
        taken = [name for name in found if entry.separate and re.fullmatch(rf"{re.escape(entry.name)}_\d+", name)]
        if taken:
            key = "separate_batch" if loaded.input_parameters.separate_batch else "separate_name"
            raise ConfigError(
                f"{key}: the images of {entry.name!r} would be named like the input {taken[0]!r}.",
                where=str(loaded.place("input_parameters", key)),
                hint="Rename one of the inputs in the model.",
            )


def _check_separate_names(loaded: LoadedConfig, names: Sequence[str]) -> None:
    for name in loaded.input_parameters.separate_name:
        if name not in names:
            where = str(loaded.place("input_parameters", "separate_name"))
            raise ConfigError(f"separate_name: the model has no input {name!r}.", where=where, hint=_guess(name, names))


def _check_sources(loaded: LoadedConfig, names: Sequence[str], book: Notebook) -> None:
    """Inputs that input_source mentions and that are none: templates speak of `data`."""
    for name in loaded.compiler_parameters.input_source:
        if name not in names and name not in ("*", "_default_value"):
            place = loaded.place("compiler_parameters", "input_source")
            message = f"input_source: the model has no input {name!r}; it has no effect."
            book.add(place, "compiler_parameters.input_source", message, "node", _guess(name, names))


def _guess(name: str, names: Sequence[str]) -> str:
    return did_you_mean(name, names) or f"The model's inputs are {', '.join(names)}."


def _shape(draft: Draft, model_input: ModelInput) -> tuple[int, ...]:
    """The fixed shape of an input: the model's, completed by input_shape."""
    declared = tuple(size if isinstance(size, int) and size > 0 else None for size in model_input.shape)
    given = _part(draft.loaded, "input_shape", draft.index)
    if not isinstance(given, tuple):
        sizes = tuple(size for size in declared if size is not None)
        if len(sizes) == len(declared):
            return sizes
        free = [f"{axis} ({dim})" if isinstance(dim, str) else str(axis)
                for axis, (dim, size) in enumerate(zip(model_input.shape, declared, strict=True))
                if size is None]  # fmt: skip
        example = "x".join(str(size or (1 if axis == 0 else 224)) for axis, size in enumerate(declared))
        raise draft.error(
            "input_shape",
            f"the model leaves dimension {', '.join(free)} of {model_input.name!r} open.",
            f"Write input_shape: '{example}' with your sizes.",
        )
    sizes = tuple(int(size) for size in given)
    fits = len(sizes) == len(declared) and all(d in (None, s) for d, s in zip(declared, sizes, strict=True))
    if not fits and declared:
        has = "x".join("?" if size is None else str(size) for size in declared)
        message = f"{'x'.join(map(str, sizes))} does not fit the model's {has}."
        raise draft.error("input_shape", message, "Correct it, or remove it so that the model's shape counts.")
    return sizes


def _resolve(draft: Draft, shape: tuple[int, ...]) -> InputConfig:
    type_rt, type_train, layout_train, layout_rt = check_types(draft, shape)
    norm_type, mean, scale, std = settle_norm(draft, shape)
    source = _source(draft, type_rt)
    result = InputConfig(
        name=draft.name, type_rt=type_rt, type_train=type_train, layout_rt=layout_rt, layout_train=layout_train,
        space_and_range=draft.part("input_space_and_range") or "regular", shape=shape, norm_type=norm_type,
        mean=mean, scale=scale, std=std, cal_data_dir=_folder(draft), cal_data_type=_data_type(draft, type_train),
        source=source, batch=draft.loaded.input_parameters.input_batch, separate=_separate(draft, shape),
    )  # fmt: skip
    if draft.loaded.calibration_parameters.preprocess_on and not result.is_image:
        hint = "Write preprocess_on: False and prepare the samples yourself."
        raise draft.error("preprocess_on", "pictures are read for 4-D image inputs only, not for a featuremap.", hint)
    if result.is_image:
        check_image(draft, result.channels, result.height_width)
    if source == "resizer" and result.height_width[0] * result.height_width[1] >= RESIZER_LIMIT:
        height, width = result.height_width
        message = f"resizer takes less than {RESIZER_LIMIT} pixels, and {height}x{width} has {height * width}."
        raise draft.error("input_source", message, "Use pyramid.")
    if result.batch > 1 and shape and shape[0] != 1:
        hint = "Export the model with batch 1, or remove input_batch."
        raise draft.error("input_batch", f"{result.batch} needs a model with batch 1; it has {shape[0]}.", hint)
    return result


def _separate(draft: Draft, shape: tuple[int, ...]) -> bool:
    """Whether the images of the batch are fed one by one."""
    group = draft.loaded.input_parameters
    if not group.separate_batch and draft.name not in group.separate_name:
        return False
    if max(group.input_batch, shape[0] if shape else 1) == 1:
        key = "separate_batch" if group.separate_batch else "separate_name"
        draft.note(key, "nothing to split: the batch is 1.", "info")
        return False
    return True


def _source(draft: Draft, type_rt: str) -> str:
    camera = type_rt in ("nv12", "gray")
    sources = draft.loaded.compiler_parameters.input_source
    source = sources.get(draft.name) or sources.get("*") or ("pyramid" if camera else "ddr")
    if source != "ddr" and not camera:
        raise draft.error("input_source", f"{source} is for nv12 and gray, not {type_rt}.", "Use ddr.")
    if source == "ddr" and type_rt == "nv12":
        raise draft.error("input_source", "nv12 comes from pyramid or resizer, not ddr.", "Use pyramid.")
    return source


def _folder(draft: Draft) -> Path | None:
    text = draft.part("cal_data_dir")
    if text is None:
        if draft.loaded.calibration_parameters.calibration_type in ("load", "skip"):
            return None
        raise draft.error("cal_data_dir", "no folder is named.", "Name one folder per input, separated by ';'.")
    return resolve(draft.loaded, text)


def _data_type(draft: Draft, type_train: str) -> str:
    folder = draft.part("cal_data_dir") or ""
    given = draft.part("cal_data_type")
    by_name = "float32" if folder.rstrip("/\\").endswith("_f32") else None
    if given is None:
        if folder and by_name is None and type_train != "featuremap" and not is_nash(draft.march):
            draft.note("cal_data_type", "absent; raw samples are read as uint8, as the folder has no _f32.", "info")
        return by_name or ("float32" if type_train == "featuremap" or is_nash(draft.march) else "uint8")
    if by_name and given != by_name:
        draft.note("cal_data_type", f"{given} contradicts the folder's name {folder!r}; the key counts.", "value")
    if given == "uint8" and type_train == "featuremap":
        draft.note("cal_data_type", "uint8 samples for a featuremap; float32 is usual.", "value")
    return given


def inputs_table(inputs: Sequence[InputConfig]) -> list[dict[str, str]]:
    """The inputs as rows of text, for a user to see what was understood."""
    rows = []
    for entry in inputs:
        numbers = {"mean": entry.mean, "scale": entry.scale, "std": entry.std}
        rows.append(
            {"input": entry.name, "shape": "x".join(map(str, entry.shape)), "train": entry.type_train,
             "layout": entry.layout_train, "rt": entry.type_rt, "layout rt": entry.layout_rt,
             "source": entry.source, "norm": entry.norm_type}
            | {name: " ".join(f"{n:g}" for n in value) if value else "" for name, value in numbers.items()}
            | ({"batch": f"{entry.batch}{', one input each' if entry.separate else ''}"} if entry.batch > 1 else {})
            | {"samples": str(entry.cal_data_dir or ""), "type": entry.cal_data_type}
        )  # fmt: skip
    return rows
