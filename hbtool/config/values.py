"""Parsers of single values: text in, typed value out, `BadValueError` where the text cannot be meant.

They know nothing of files or keys; the reader of a key adds file, line and key to what they raise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from hbtool.config.notes import did_you_mean

_TRUE = frozenset({"true", "yes", "on", "1", "y"})
_FALSE = frozenset({"false", "no", "off", "0", "n"})
_QUOTES = "'\"‘’“”`"
_FULL_WIDTH = str.maketrans({"；": ";", "，": ",", "、": ",", "×": "x", "＊": "*", "－": "-", "．": "."})


class BadValueError(ValueError):
    """A value that cannot be read: what is wrong, and what to write instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def clean(text: str) -> str:
    """Text without surrounding blanks, stray (also typographic) quotes and a `;` that ends a list of one."""
    return text.strip().rstrip(";").strip().strip(_QUOTES).strip().rstrip(";").rstrip()


def says_nothing(text: str) -> bool:
    """Whether a part of a `;` list means "no value": empty, `None`, `null`, `~`."""
    return clean(text).lower() in ("", "none", "null", "~")


def split_parts(text: str, *, commas: bool = False) -> list[str | None]:
    """`"a; b;None"` → `["a", "b", None]`. With ``commas``, a text without `;` is split at `,` instead."""
    text = text.translate(_FULL_WIDTH)
    separator = "," if commas and ";" not in text else ";"
    return [None if says_nothing(part) else clean(part) for part in text.split(separator)]


def split_names(text: str) -> list[str]:
    """Names separated by `;` (or by `,` where there is no `;`), the empty ones dropped."""
    return [part for part in split_parts(text, commas=True) if part is not None]


def split_flags(text: str) -> list[str]:
    """Flags separated by `,`, `;` or blanks (no flag holds one)."""
    return [clean(part) for part in re.split(r"[;,\s]+", text.translate(_FULL_WIDTH)) if not says_nothing(part)]


def parse_bool(text: str) -> bool:
    """True or False from any spelling YAML 1.1 or Python has for them."""
    word = clean(text).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise BadValueError(f"{text!r} is neither True nor False", "Write True or False.")


def parse_int(text: str) -> int:
    """An integer; `4.0` and `1e3` count as one."""
    word = clean(text)
    try:
        return int(word)
    except ValueError:
        pass
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if math.isfinite(number) and number == int(number):
        return int(number)
    raise BadValueError(f"{text!r} is not a whole number", "Write digits only.")


def parse_float(text: str) -> float:
    """A finite number; a fraction such as `1/255` counts as one."""
    word = clean(text)
    top, slash, bottom = word.partition("/")
    try:
        number = float(top) / float(bottom) if slash else float(word)
    except (ValueError, ZeroDivisionError):
        raise BadValueError(f"{text!r} is not a number", "Write a number such as 0.0171.") from None
    if not math.isfinite(number):
        raise BadValueError(f"{text!r} is not a finite number", "Write a number such as 0.0171.")
    return number


def parse_numbers(text: str) -> tuple[float, ...]:
    """Numbers of one input's channels, separated by blanks or commas, with or without brackets."""
    body = clean(text.translate(_FULL_WIDTH)).strip("[]()")
    words = [word for word in re.split(r"[\s,]+", body) if word]
    if not words:
        raise BadValueError(f"{text!r} holds no number", "Write one number, or one per channel.")
    return tuple(parse_float(word) for word in words)


def parse_shape(text: str) -> tuple[int, ...]:
    """`1x3x224x224` (also `1,3,224,224`, `[1, 3, 224, 224]`, `1*3*224*224`) → (1, 3, 224, 224), all positive."""
    body = clean(text.translate(_FULL_WIDTH)).strip("[](),").strip()
    words = [word for word in re.split(r"\s*[xX*,]\s*|\s+", body)]
    hint = "Write the sizes as in 1x3x224x224."
    sizes: list[int] = []
    for word in words:
        if not re.fullmatch(r"[+-]?\d{1,12}", word):
            raise BadValueError(f"{text!r} is not a shape", hint)
        if int(word) <= 0:
            raise BadValueError(f"{text!r} leaves the dimension {int(word)} open", "Give every dimension a fixed size.")
        sizes.append(int(word))
    return tuple(sizes)


def split_shapes(text: str) -> list[str | None]:
    """Shapes of several inputs; `1x3x8x8,1x4` (no `;`, but `x` in every part) counts as two."""
    parts = split_parts(text)
    if len(parts) == 1 and parts[0] and "," in parts[0]:
        pieces = parts[0].split(",")
        if all(re.search(r"\d\s*[xX*]\s*\d", piece) for piece in pieces):
            return [clean(piece) for piece in pieces]
    return parts


def parse_choice(text: str, choices: Sequence[str], aliases: Mapping[str, str] | None = None) -> str:
    """The choice meant by ``text``: letter case, `-`/`_` and known aliases do not matter."""
    word = clean(text)
    if word in choices:
        return word
    folded = {_fold(choice): choice for choice in choices}
    for alias, choice in (aliases or {}).items():
        folded.setdefault(_fold(alias), choice)
    if _fold(word) in folded:
        return folded[_fold(word)]
    guess = did_you_mean(word, choices) if len(word) > 3 else ""  # GPU is as near to CPU as to BPU
    raise BadValueError(f"{word!r} is not one of {', '.join(choices)}", guess or f"Use one of {', '.join(choices)}.")


def _fold(word: str) -> str:
    return re.sub(r"[\s_-]+", "", word).lower()


def numbers_text(numbers: Sequence[float]) -> str:
    """Numbers as this format writes them: separated by blanks, shortest digits that read back the same."""
    return " ".join(repr(int(n)) if n == int(n) and abs(n) < 1e15 else repr(n) for n in numbers)


def shape_text(shape: Sequence[int]) -> str:
    """(1, 3, 224, 224) → `1x3x224x224`."""
    return "x".join(map(str, shape))
