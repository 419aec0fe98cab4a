"""Integers together with what they mean, as the fixed-point modules pass them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hbtool.dtype import DTypeLike, as_dtype
from hbtool.errors import TrainingError

_STRUCTURAL = {
    "reshape", "view", "transpose", "permute", "flatten", "squeeze", "unsqueeze", "contiguous", "detach", "clone",
    "to", "cpu", "cuda", "expand", "repeat", "size", "dim", "numel", "__getitem__", "__get__", "__repr__", "__format__",
    "stride", "is_contiguous", "__len__", "item", "tolist", "numpy",
}  # fmt: skip


class QTensor(torch.Tensor):
    """An integer tensor with `scale`, `zero_point`, `dtype` and `per_channel_axis`.

    Only operations that move elements work on it directly; anything else raises `NotImplementedError`, so that an
    operator without an integer meaning is found on the host and not on the board.
    """

    _scale: Tensor
    _zero_point: Tensor
    _qdtype: Any
    _axis: int

    @staticmethod
    def __new__(
        cls,
        data: Tensor,
        scale: Tensor | float,
        zero_point: Tensor | None = None,
        dtype: DTypeLike = "qint8",
        per_channel_axis: int = -1,
    ) -> QTensor:
        """Wrap integers `data`; `scale` is [1] or [channels] along `per_channel_axis`."""
        self = data.as_subclass(cls)
        self._scale = torch.as_tensor(scale, dtype=torch.float32).reshape(-1)
        self._zero_point = torch.zeros(1, dtype=torch.int64) if zero_point is None else zero_point
        self._qdtype = as_dtype(dtype)
        self._axis = per_channel_axis
        if self._scale.numel() > 1 and not 0 <= per_channel_axis < data.dim():
            raise TrainingError("a QTensor with several scales needs a per_channel_axis.", hint="Give its axis.")
        return self

    @property
    def scale(self) -> Tensor:
        """Real value of one step, float32 [1] or [channels]."""
        return self._scale

    @property
    def zero_point(self) -> Tensor:
        """The integer that stands for 0, int64 [1]."""
        return self._zero_point

    @property
    def qdtype(self) -> Any:
        """The quantized dtype (`qint8`, ...)."""
        return self._qdtype

    @property
    def per_channel_axis(self) -> int:
        """Channel axis of `scale`, -1 for one scale."""
        return self._axis

    def q_scale(self) -> Tensor:  # type: ignore[override]
        """The scale."""
        return self._scale

    def q_zero_point(self) -> Tensor:  # type: ignore[override]
        """The zero point."""
        return self._zero_point

    def int_repr(self) -> Tensor:
        """The integers as a plain tensor."""
        return self.as_subclass(torch.Tensor)

    def dequantize(self) -> Tensor:
        """The real values, float32."""
        shape = [1] * self.dim()
        if self._scale.numel() > 1:
            shape[self._axis] = -1
        plain = self.int_repr()
        return (plain - self._zero_point.to(plain.device)).float() * self._scale.to(plain.device).view(shape)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if name not in _STRUCTURAL and name != "as_subclass":
            raise NotImplementedError(f"function {func} is not implemented for QTensor.")
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
        source = next((a for a in args if isinstance(a, QTensor)), None)
        if type(out) is torch.Tensor and source is not None and name not in ("as_subclass", "__get__"):
            wrapped = out.as_subclass(QTensor)
            for field in ("_scale", "_zero_point", "_qdtype", "_axis"):
                setattr(wrapped, field, getattr(source, field))
            return wrapped
        return out
