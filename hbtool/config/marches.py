"""The marches as far as a configuration must tell them apart (source: reference notes, "names over time")."""

from __future__ import annotations

from hbtool.config.values import BadValueError, clean, parse_choice

NASH_MARCHES = (
    "nash-e",
    "nash-m",
    "nash-p",
    "nash-h",
    "nash-b",
    "nash-b-lite",
    "nash-b-plus",
    "nash-starry-p",
)
MARCHES = ("bernoulli2", "bayes", "bayes-e", *NASH_MARCHES)

_BOARDS = {
    "x3": "bernoulli2",
    "xj3": "bernoulli2",
    "rdk x3": "bernoulli2",
    "j3": "bernoulli2",
    "journey3": "bernoulli2",
    "sunrise3": "bernoulli2",
    "sunrise x3": "bernoulli2",
    "ultra": "bayes",
    "rdk ultra": "bayes",
    "j5": "bayes",
    "journey5": "bayes",
    "x5": "bayes-e",
    "rdk x5": "bayes-e",
    "sunrise5": "bayes-e",
    "sunrise x5": "bayes-e",
    "s100": "nash-e",
    "rdk s100": "nash-e",
    "j6e": "nash-e",
    "s100p": "nash-m",
    "rdk s100p": "nash-m",
    "j6m": "nash-m",
    "s600": "nash-p",
    "rdk s600": "nash-p",
    "j6p": "nash-p",
    "j6h": "nash-h",
    "j6b": "nash-b",
}


def parse_march(text: str) -> str:
    """A march name, from any spelling or a board's name, or the path of a target file (`*.yaml`)."""
    word = clean(text)
    if is_target_file(word):
        return word
    try:
        return parse_choice(word, MARCHES, _BOARDS)
    except BadValueError as error:
        raise BadValueError(
            f"{word!r} is not a march; known are {', '.join(MARCHES)}",
            error.hint if error.hint.startswith("Did") else "Name a march, or the path of a target file (*.yaml).",
        ) from None


def is_target_file(march: str) -> bool:
    """Whether ``march`` names a file that describes a target."""
    return march.lower().endswith((".yaml", ".yml"))


def is_nash(march: str) -> bool:
    """Whether ``march`` belongs to the nash generation."""
    return march.startswith("nash-")


def max_cores(march: str) -> int | None:
    """The most cores that work on one frame; None for a target file, which knows itself."""
    if is_target_file(march):
        return None
    if march == "bernoulli2":
        return 2
    return 4 if march in ("nash-h", "nash-p", "nash-starry-p") else 1


def max_batch(march: str) -> int:
    """The largest input_batch."""
    return 128 if march == "bernoulli2" else 4096


def max_time_per_fc_us(march: str) -> int:
    """The longest allowed function call, in microseconds."""
    return 10_000_000 if is_nash(march) else 4_294_967_295


def has_int16(march: str) -> bool:
    """Whether activations may be int16."""
    return march != "bernoulli2"
