"""How batch normalization takes part in QAT: one process-wide setting."""

from __future__ import annotations

from hbtool.errors import UsageError


class QATMode:
    """The three ways; strings, as scripts compare them."""

    FuseBN = "fuse_bn"
    WithBN = "with_bn"
    WithBNReverseFold = "with_bn_reverse_fold"


_MODES = (QATMode.FuseBN, QATMode.WithBN, QATMode.WithBNReverseFold)
_mode = QATMode.FuseBN


def set_qat_mode(qat_mode: str) -> None:
    """Choose how BN takes part in QAT; call it before a model is prepared.

    Raises:
        UsageError: not one of `fuse_bn`, `with_bn`, `with_bn_reverse_fold`.
    """
    global _mode
    if qat_mode not in _MODES:
        raise UsageError(f"unknown QAT mode {qat_mode!r}.", hint=f"Use one of {', '.join(_MODES)}.")
    _mode = qat_mode


def get_qat_mode() -> str:
    """The chosen mode (`fuse_bn` by default)."""
    return _mode


class ConsistencyStrategy:
    """How far scales are bound to what the smallest machines of the newest family compute exactly (nash-e, nash-m)."""

    level = 0

    @classmethod
    def set_consistency_level(cls, level: int) -> None:
        """Choose it before a model is prepared: 0 = free scales, 1 = powers of two for activations, 2 = weights too.

        Raises:
            UsageError: no such level.
        """
        if level not in (0, 1, 2):
            raise UsageError(f"unknown consistency level {level!r}.", hint="Use 0, 1 or 2.")
        cls.level = level

    @classmethod
    def get_consistency_level(cls) -> int:
        """The chosen level."""
        return cls.level
