"""Multi-head attention through ``scaled_dot_product_attention``, with biases on queries and values only.

A bias on the keys adds the same number to all scores of a query and cannot change a softmax; this family of models leaves
it out, and so do we, so that the weights are theirs. ``q_bias`` and ``v_bias`` are vectors of their own.
"""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_affect.errors import ConfigError
from ssl_affect.layers.recompute import linear_of_norm


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Softmax attention of query [B, Tq, D] over key and value [B, Tk, D], heads being slices of D: [B, Tq, D]."""
    query, key, value = (rearrange(x, "b t (h d) -> b h t d", h=num_heads) for x in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(query, key, value), "b h t d -> b t (h d)")


class SelfAttention(nn.Module):
    """Tokens attend to each other; query, key and value weights are stored as one [3D, D] matrix, in that order.

    Args:
        dim: Width D of the tokens.
        num_heads: Heads; must divide ``dim``.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = _check_heads(dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, norm: nn.Module | None = None, first: int = 0) -> Tensor:
        """[B, T, D] -> [B, T - first, D]: the tokens from ``first`` on attend to all; a ``norm`` comes before that."""
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        parts = (len(self.q_bias), 2 * len(self.q_bias))
        if first == 0:
            query, both = linear_of_norm(x, norm, partial(F.linear, weight=self.qkv.weight, bias=bias)).split(parts, -1)
        else:
            (q_weight, kv_weight), (q_bias, kv_bias) = self.qkv.weight.split(parts), bias.split(parts)
            query = linear_of_norm(x[:, first:], norm, partial(F.linear, weight=q_weight, bias=q_bias))
            both = linear_of_norm(x, norm, partial(F.linear, weight=kv_weight, bias=kv_bias))
        key, value = both.chunk(2, dim=-1)
        return self.proj(attend(query, key, value, self.num_heads))


class CrossAttention(nn.Module):
    """Tokens attend to a context; key and value weights are stored as one [2D, Dc] matrix, in that order.

    Args:
        dim: Width D of the tokens.
        num_heads: Heads; must divide ``dim``.
        context_dim: Width Dc of the context; None: that of the tokens.
    """

    def __init__(self, dim: int, num_heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.num_heads = _check_heads(dim, num_heads)
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(context_dim or dim, 2 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, context: Tensor, norm: nn.Module | None = None, context_norm: nn.Module | None = None
    ) -> Tensor:
        """Queries from ``x`` [B, Tq, D], keys and values from ``context`` [B, Tk, Dc]: [B, Tq, D]; norms come first."""
        query = linear_of_norm(x, norm, partial(F.linear, weight=self.q.weight, bias=self.q_bias))
        bias = torch.cat((torch.zeros_like(self.v_bias), self.v_bias))
        both = linear_of_norm(context, context_norm, partial(F.linear, weight=self.kv.weight, bias=bias))
        key, value = both.chunk(2, dim=-1)
        return self.proj(attend(query, key, value, self.num_heads))


def _check_heads(dim: int, num_heads: int) -> int:
    if num_heads < 1 or dim % num_heads:
        raise ConfigError(
            f"attention: width {dim} cannot be cut into {num_heads} heads; choose num_heads from"
            f" {[h for h in range(1, 65) if dim % h == 0]}"
        )
    return num_heads
