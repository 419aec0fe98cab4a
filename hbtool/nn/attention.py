"""Multi-head attention as linear layers, products and a softmax."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from hbtool.errors import TrainingError
from hbtool.nn.composite import Composite, composite_of
from hbtool.nn.functional_module import FloatFunctional


@composite_of(nn.MultiheadAttention)
class MultiheadAttention(Composite):
    """nn.MultiheadAttention, every step with a scale of its own.

    Args:
        embed_dim: size of queries and results, split among the heads.
        num_heads: heads.
        dropout: share of the weights that training drops.
        bias: whether the projections have one.
        batch_first: [N, L, E] instead of [L, N, E].
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, batch_first: bool = False,
        device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(embed_dim, embed_dim, bias, device=device) for _ in range(4)
        )
        self.scale, self.scores, self.mask, self.mix = (FloatFunctional() for _ in range(4))
        self.softmax, self.dropout = nn.Softmax(-1), nn.Dropout(dropout)

    @classmethod
    def from_torch(cls, module: nn.MultiheadAttention) -> MultiheadAttention:
        """The composite form of torch's layer, with its parameters.

        Raises:
            TrainingError: add_bias_kv, add_zero_attn or key and value of another size.
        """
        if module.bias_k is not None or module.add_zero_attn or module.in_proj_weight is None:
            raise TrainingError(
                "MultiheadAttention with add_bias_kv, add_zero_attn or several sizes has no quantized form.",
                hint="Leave these settings at their defaults, or set its qconfig to None.",
            )
        bias = module.in_proj_bias is not None
        made = cls(module.embed_dim, module.num_heads, module.dropout, bias, module.batch_first, device="meta")
        weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3) if bias else [None] * 3
        for linear, weight, shift in zip((made.q_proj, made.k_proj, made.v_proj), weights, biases, strict=True):
            linear.weight = nn.Parameter(weight.detach().clone())
            linear.bias = None if shift is None else nn.Parameter(shift.detach().clone())  # type: ignore[assignment]
        made.out_proj.weight, made.out_proj.bias = module.out_proj.weight, module.out_proj.bias
        return made

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(result, attention weights or None); shapes as torch's layer with a batch."""
        if not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        q = self._heads(self.scale.mul_scalar(self.q_proj(query), 1 / math.sqrt(self.embed_dim // self.num_heads)))
        k, v = self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        scores = self.scores.matmul(q, k.transpose(2, 3))
        if attn_mask is not None:
            scores = self.mask.add(scores, attn_mask)
        if key_padding_mask is not None:
            scores = scores.masked_fill(key_padding_mask.unsqueeze(1).unsqueeze(1), -math.inf)
        weights = self.dropout(self.softmax(scores))
        mixed = self.mix.matmul(weights, v).transpose(1, 2)
        result = self.out_proj(mixed.reshape(mixed.shape[0], mixed.shape[1], self.embed_dim))
        if not self.batch_first:
            result = result.transpose(0, 1)
        if not need_weights:
            return result, None
        return result, weights.mean(1) if average_attn_weights else weights

    def _heads(self, x: Tensor) -> Tensor:
        """[N, heads, L, E / heads] of [N, L, E]."""
        heads = x.reshape(x.shape[0], x.shape[1], self.num_heads, self.embed_dim // self.num_heads)
        return heads.transpose(1, 2)
