"""From the bytes of a file to YAML items: what people's editors and templates put in the way.

TABs, byte-order marks, GBK comments and non-breaking blanks are read as a person reads them; what cannot be read
becomes a ConfigError at the line that is wrong, which is not always the line where PyYAML gives up.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import yaml

from hbtool.config.notes import Notebook, Place
from hbtool.config.yaml_items import Item, build_items
from hbtool.errors import ConfigError

MAX_FILE_BYTES = 8 << 20
_ODD_BLANKS = {"\u00a0": " ", "\u3000": " ", "\u2003": " ", "\u2002": " ", "\u200b": ""}
_PLACEHOLDER = re.compile(
    r"@[A-Za-z_][\w.-]*@|^\$[A-Za-z_]\w*|\$\{[^}]*\}|\{\{[^}]*\}\}|<[A-Za-z_][^<>]*>|\*{3,}|^[xX]{3,}$|^\{[^{}]*\}$"
)


def find_placeholder(text: str) -> str | None:
    """The first thing in ``text`` that stands for a value still to be filled in, such as @WORK@ or <model>."""
    found = _PLACEHOLDER.search(text.strip())
    return found.group() if found else None


def read_text(path: Path) -> tuple[str, str]:
    """The text of a file and the encoding it was in. Raises ConfigError if it is missing, a folder or binary."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(
                f"the file has {path.stat().st_size} bytes; a configuration has a few thousand.",
                where=str(path),
                hint="Give the config.yaml, not the model.",
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("the configuration file does not exist.", where=str(path), hint="Check the path.") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"cannot read the configuration: {reason}.", where=str(path), hint="Give a file.") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings: tuple[str, ...] = ("utf-16",)
    else:
        encodings = ("utf-8-sig", "gb18030")
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text, encoding
    line = data.count(b"\n", 0, data.find(b"\0") if b"\0" in data else 0) + 1
    raise ConfigError("the file is not text.", where=f"{path}:{line}", hint="Save the configuration as UTF-8 YAML.")


def parse_items(text: str, file: str, book: Notebook, score: Callable[[Item], int]) -> Item | None:
    """YAML items of ``text``. ``score`` counts the known keys of a reading; it decides how wide a TAB is."""
    lines = _without_fence(_without_odd_blanks(text, file, book), file, book)
    tabbed = [number for number, line in enumerate(lines, 1) if "\t" in line and line.strip()]
    if not tabbed:
        cleaned = "\n".join("" if not line.strip() else line for line in lines)
        return _compose(cleaned, file)
    indents = [n for n in tabbed if "\t" in lines[n - 1][: len(lines[n - 1]) - len(lines[n - 1].lstrip())]]
    readings: list[tuple[int, Item | None]] = []
    failure: ConfigError | None = None
    for width in (2, 4, 8, 1) if indents else (1,):
        try:
            item = _compose("\n".join(_expand_tabs(line, width) for line in lines), file)
        except ConfigError as error:
            failure = failure or error
            continue
        readings.append((score(item) if item is not None else 0, item))
    if not readings:
        assert failure is not None
        if indents:
            hint = "YAML indents with blanks: replace the TABs."
            raise ConfigError(f"a TAB indents this line. ({failure.message})", where=f"{file}:{indents[0]}", hint=hint)
        raise failure
    if indents:
        book.add(Place(file, indents[0], 1), "", "a TAB indents this line; read as blanks.", "info")
    return max(readings, key=lambda reading: reading[0])[1]


def _without_fence(lines: list[str], file: str, book: Notebook) -> list[str]:
    """A configuration copied out of a document with the Markdown fence around it: the fence is left out."""
    filled = [number for number, line in enumerate(lines) if line.strip()]
    if not filled or not lines[filled[0]].lstrip().startswith("```"):
        return lines
    book.add(Place(file, filled[0] + 1, 1), "", "a Markdown fence is left out.", "info")
    ends = [filled[0], *(number for number in filled[-1:] if lines[number].strip() == "```")]
    return ["" if number in ends else line for number, line in enumerate(lines)]


def _without_odd_blanks(text: str, file: str, book: Notebook) -> list[str]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for index, line in enumerate(lines):
        code = line.split(" #")[0]
        if any(blank in code for blank in _ODD_BLANKS) and not code.lstrip().startswith("#"):
            for blank, plain in _ODD_BLANKS.items():
                line = line.replace(blank, plain)
            lines[index] = line
            book.add(Place(file, index + 1, 1), "", "the line holds non-ASCII blanks; read as blanks.", "info")
    return lines


def _expand_tabs(line: str, width: int) -> str:
    body = line.lstrip()
    if not body:
        return ""
    indent = line[: len(line) - len(body)]
    # One character for one keeps the columns; a TAB inside quotes means nothing in this file.
    return indent.replace("\t", " " * width) + body.replace("\t", " ")


def _compose(text: str, file: str) -> Item | None:
    try:
        return build_items(text, file)
    except yaml.MarkedYAMLError as error:
        raise _explained(error, text, file) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"the line holds the control character {error.character!r}.", where=f"{file}:{line}", hint="Remove it."
        ) from None
    except RecursionError:
        raise ConfigError("the file nests too deeply.", where=file, hint="A configuration has three levels.") from None


def _explained(error: yaml.MarkedYAMLError, text: str, file: str) -> ConfigError:
    problem = error.problem or "not valid YAML"
    mark = error.problem_mark or error.context_mark
    # Where a scalar or key never ends, the place that is wrong is where it began.
    if error.context_mark and error.context and "scanning a" in error.context and "next token" not in error.context:
        mark = error.context_mark
    line = mark.line + 1 if mark else 1
    opened = _unclosed_quote(text, line)
    if opened:
        return ConfigError(
            f"a quote opened on this line is closed only later (line {line} no longer parses).",
            where=f"{file}:{opened}",
            hint="Close the quote at the end of the value.",
        )
    if "end of stream" in problem and error.context and "quoted scalar" in error.context:
        hint = "Close the quote at the end of the value."
        return ConfigError("a quote opened on this line is never closed.", where=f"{file}:{line}", hint=hint)
    content = text.split("\n")[line - 1] if line <= text.count("\n") + 1 else ""
    placeholder = find_placeholder(content.split(":", 1)[-1].strip())
    if placeholder:
        others = sorted({n for n, row in enumerate(text.split("\n"), 1) if _holds_placeholder(row)} - {line})
        more = f" (more placeholders on lines {', '.join(map(str, others))})" if others else ""
        return ConfigError(
            f"the value holds the placeholder {placeholder}{more}.",
            where=f"{file}:{line}",
            hint="Fill in the real value, in quotes.",
        )
    return ConfigError(f"not valid YAML: {problem}.", where=f"{file}:{line}", hint=_hint(content, problem))


def _holds_placeholder(row: str) -> bool:
    code = row.split("#")[0]
    return ":" in code and find_placeholder(code.split(":", 1)[1].strip()) is not None


def _unclosed_quote(text: str, line: int) -> int | None:
    """The line of the last quoted value that runs over a line end and swallows a `key:` before ``line``."""
    opened = None
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.ScalarToken) and token.style in ("'", '"'):
                start, end = token.start_mark.line + 1, token.end_mark.line + 1
                if start < end and start <= line and re.search(r"\w+:", token.value):
                    opened = start
    except yaml.YAMLError:
        pass
    return opened


def _hint(content: str, problem: str) -> str:
    if "：" in content:
        return "The line holds a full-width colon '：'; write ': ' (colon and blank)."
    if "```" in content:
        return "Remove the Markdown fence."
    if "mapping values are not allowed" in problem or "expected ':'" in problem or "expected <block end>" in problem:
        return "Check the indentation, that a blank follows the colon, and that quotes are closed."
    if "cannot start any token" in problem or re.search(r":\s*[*&]", content):
        return "Put the value in quotes."
    if "unknown escape" in problem:
        return "Between double quotes a backslash escapes: use single quotes, or / in paths."
    if "single document" in problem:
        return "Keep one configuration per file."
    return "Correct the line; values are written key: 'value'."
