"""Which slots a hidden state asks for: queries against the product of two sets of keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vademecum.lookup import Frame
from vademecum.memory.base import Cost, Kind, Role, dense_cost, require
from vademecum.memory.query_norms import NORMS
from vademecum.ops.product_keys import search

SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores: scores.softmax(-1),
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}
"""How scores of a head's chosen slots become weights; only with softmax do they compete."""


class ProductKeys(nn.Module):
    """The k best of n * n slots for each of H queries (arXiv:1907.05242).

    Attributes:
        weight: ``[H * D, d]`` of the query, with ``bias`` ``[H * D]`` where its norm would feel one; role ``router``.
        keys: ``[H, 2, n, D/2]``, or ``[1, 2, n, D/2]`` where heads share them.
    """

    role: ClassVar[Role] = Role.ROUTER

    def __init__(
        self,
        hidden: int,
        count: int,
        *,
        heads: int,
        topk: int,
        key_dim: int,
        norm: str,
        shared: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Make queries of ``key_dim`` for ``heads`` heads, and ``count`` keys for each half.

        Both start uniform within one over the root of their inputs, as a linear map of PyTorch does and as the paper's
        own keys do.
        """
        super().__init__()
        self.heads, self.topk, self.count, self.key_dim = heads, topk, count, key_dim

        def drawn(bound: float, *shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, dtype=dtype, device=device).uniform_(-bound, bound))

        self.norm = NORMS[norm](heads, key_dim, dtype, device)
        self.weight = drawn(hidden**-0.5, heads * key_dim, hidden)
        self.bias = drawn(hidden**-0.5, heads * key_dim) if self.norm.biased else None
        self.keys = drawn((key_dim // 2) ** -0.5, 1 if shared else heads, 2, count, key_dim // 2)

    def forward(self, hidden: Tensor, frame: Frame, key: str) -> tuple[Tensor, Tensor]:
        """Scores (fp32 or wider) and slots ``[N, H, k]`` for ``hidden`` ``[N, d]``; best first."""
        query = F.linear(hidden, self.weight, self.bias).view(-1, self.heads, self.key_dim)
        query, keys = self.norm(query, self.keys, frame, key)
        if len(keys) == self.heads:
            return search(query, keys, self.topk)
        scores, slots = search(query.reshape(-1, 1, self.key_dim), keys, self.topk)
        shape = (-1, self.heads, self.topk)
        return scores.view(shape), slots.view(shape)

    def cost(self) -> Cost:
        """The query, and its products with all keys of both halves."""
        return dense_cost(self, flops=2 * (self.weight.numel() + self.heads * self.key_dim * self.count))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, topk={self.topk}, keys=2x{self.count}, key_dim={self.key_dim}"


def require_searchable(kind: Kind, setting: str, heads: int, topk: int, key_dim: int | None) -> None:
    """Raise ValueError for numbers that product keys cannot have, naming the nearest that they can.

    ``setting`` is what the kind calls its number of slots.
    """
    name, slots = type(kind).__name__, int(getattr(kind, setting))
    side = math.isqrt(max(slots, 0))
    squares = " or ".join(f"{one * one} ({one} x {one})" for one in (side, side + 1) if one)
    require(
        side >= 1 and side * side == slots,
        f"{name}({setting}={slots}) was given, but there is one for every pair of two equal sets of keys; expected a "
        f"square, such as {squares}.",
    )
    require(heads >= 1, f"{name}(heads={heads}) was given; expected 1 or more, such as heads=4.")
    require(
        1 <= topk <= side,
        f"{name}(topk={topk}, {setting}={slots}) was given; expected topk from 1 to the {side} keys of a half: write "
        f"topk={min(max(topk, 1), side)}, or {setting}={max(topk, side) ** 2}.",
    )
    even = " or ".join(str(one) for one in ((key_dim or 0) - 1, (key_dim or 0) + 1) if one >= 2 and one % 2 == 0)
    require(
        key_dim is None or (key_dim >= 2 and key_dim % 2 == 0),
        f"{name}(key_dim={key_dim}) was given, but a query has two equal halves; expected an even number, such as "
        f"{even or 2}.",
    )


def key_width(key_dim: int | None, hidden: int) -> int:
    """Width of a head's query: as asked, or half the hidden width, made even."""
    return key_dim or 2 * max(1, hidden // 4)
