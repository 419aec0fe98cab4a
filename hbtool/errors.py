"""Every failure that hbtool expects: one class per cause, each with its place and the next step.

Library code raises these and never prints or exits. The command line turns them into one paragraph and the
exit code of the class. Whatever is *not* an `HbError` is a bug in hbtool and leaves with exit code 3.
"""

from __future__ import annotations


class HbError(Exception):
    """A failure with a place and a next step.

    Args:
        message: what happened, one sentence, no trailing advice.
        where: the place: ``file:line``, a node name, a module path, a byte offset.
        hint: what the user does next, one sentence.
    """

    exit_code = 1
    kind = "error"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        if not self.hint:
            return text
        return f"{text}{'' if text.endswith(('.', '?', '!')) else '.'} {self.hint}"


class UsageError(HbError):
    """The command line asks for something that does not exist or does not go together."""

    exit_code = 2
    kind = "usage"


class ConfigError(HbError):
    """A configuration file is missing, unreadable or says something that cannot be done (where = file:line)."""

    exit_code = 2
    kind = "config"


class ModelError(HbError):
    """The model file or graph cannot be used (where = file or node name)."""

    kind = "model"


class UnsupportedError(ModelError):
    """The model is valid, but holds something hbtool cannot run on any device (where = node name)."""

    kind = "unsupported"


class DataError(HbError):
    """Calibration or input data do not fit the model (where = file name)."""

    kind = "data"


class ArtifactError(HbError):
    """An artifact is truncated, damaged, of another version or hostile (where = file)."""

    kind = "artifact"


class CompileError(HbError):
    """The compiler cannot place a node into the target's memory or units (where = node name)."""

    kind = "compile"


class TrainingError(HbError):
    """Calibration, QAT or conversion of a PyTorch model cannot go on (where = module path)."""

    kind = "training"


class OutputError(HbError):
    """A result cannot be written: the disk is full, or the folder refuses it."""

    kind = "output"
