"""Lines of hmct-debugger in the words of `hbtool debug`: its verbs, its second argument, its lists in brackets."""

from __future__ import annotations

import ast
from collections.abc import Sequence

VERBS = {
    "get-sensitivity-of-nodes": "sensitivity",
    "plot-acc-error": "accumulated",
    "plot-distribution": "distribution",
    "get-channelwise-data-distribution": "channelwise",
    "runall": "runall",
}
"""The verb there -> the verb here."""

_METRICS = {"cosine-similarity": "cosine"}
_LISTS = {"-q": "-q", "--quantize_node": "-q", "-nq": "-nq", "--non_quantize_node": "-nq", "-i": "-i"}
_NODES = ("-n", "--node", "--nodes_list")
_NO_PICTURES = "a table is printed; hbtool debug runall draws the pictures"


def translate_debugger(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of `hbtool debug`, and remarks about what was left out; lines of its own verbs stay as they are."""
    if not words or words[0] not in VERBS:
        return list(words), []
    reader = _Reader(VERBS[words[0]])
    rest = iter(words[1:])
    for word in rest:
        if word in ("-v", "--verbose", "-h", "--help") or not word.startswith("-"):
            reader.plain(word)
        else:
            reader.option(word, next(rest, ""))
    return reader.line(), reader.remarks


class _Reader:
    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.files: list[str] = []
        self.options: list[str] = []
        self.remarks: list[str] = []

    def plain(self, word: str) -> None:
        """A flag, the value of -v, or a file."""
        if word == "--verbose":
            word = "-v"
        if word == "-v" and self.verb != "sensitivity":
            return
        if word in ("False", "false") and self.options[-1:] == ["-v"]:
            self.options.pop()
        elif word.startswith("-"):
            self.options.append(word)
        elif word not in ("True", "true"):
            self.files.append(word)

    def option(self, word: str, value: str) -> None:
        """An option with its value."""
        if word in ("-m", "--metrics", "--metric"):
            self._metrics(value)
        elif word in _LISTS or (
            word in ("-n", "--node", "--nodes_list") and self.verb in ("distribution", "channelwise")
        ):
            self.options += [w for name in listed(value) for w in (_LISTS.get(word, "-i"), name)]
        elif word in ("-a", "--average_mode", "--axis"):
            self.remarks.append(f"{word}: left out; the mean over the samples is shown")
        elif word in ("-s", "--save_dir"):
            self._folder(word, value)
        else:
            self.options += [word, value]

    def _metrics(self, value: str) -> None:
        names = [_METRICS.get(name, name) for name in listed(value)]
        if self.verb in ("sensitivity", "runall"):
            self.options += ["-m", names[0]]
        if len(names) > 1 or self.verb not in ("sensitivity", "runall"):
            self.remarks.append("-m: every metric is shown" + (f", sorted by {names[0]}" if len(names) > 1 else ""))

    def _folder(self, word: str, value: str) -> None:
        if self.verb == "runall":
            self.options += ["-s", f"{value.rstrip('/')}/hbtool_debug.html"]
        else:
            self.remarks.append(f"{word}: {_NO_PICTURES}")

    def line(self) -> list[str]:
        data = ["--data", self.files[1]] if len(self.files) > 1 else []
        return [self.verb, *self.files[:1], *data, *self.options]


def listed(value: str) -> list[str]:
    """The names in `['a', 'b']`, `a,b` or `a`; nested lists are flat afterwards."""
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        found = [v.strip() for v in value.strip("[]").split(",")]
    return list(_flat(found))


def _flat(value: object) -> Sequence[str]:
    if isinstance(value, list | tuple):
        return [name for v in value for name in _flat(v)]
    return [str(value)]
