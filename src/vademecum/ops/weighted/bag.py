"""The three loops as PyTorch's own bags of rows, for any device and type that has them; deterministic."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Values of gathered rows that dot products hold at once.
AT_ONCE = 2**22


def summed(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """``[N, D]`` in the dtype of ``weights``: ``sum_k weights[n,k] * rows[places[n,k]]``."""
    if not places.numel():
        return weights.new_zeros(len(places), rows.shape[1])
    wide = torch.promote_types(rows.dtype, weights.dtype)
    out = F.embedding_bag(places, rows.to(wide), mode="sum", per_sample_weights=weights.to(wide))
    return out.to(weights.dtype)


def dotted(rows: Tensor, places: Tensor, x: Tensor) -> Tensor:
    """``[N, K]`` in the dtype of ``x``: ``rows[places[n,k]] . x[n]``, some tokens at a time."""
    out = x.new_empty(places.shape)
    tokens = max(1, AT_ONCE // max(1, places.shape[1] * rows.shape[1]))
    wide = torch.promote_types(rows.dtype, x.dtype)
    for start in range(0, len(places), tokens):
        here = slice(start, start + tokens)
        read = rows[places[here]].to(wide)
        out[here] = torch.matmul(read, x[here].unsqueeze(-1).to(wide)).squeeze(-1).to(x.dtype)
    return out


def scattered(places: Tensor, weights: Tensor, x: Tensor, count: int) -> Tensor:
    """Gradient of the rows, fp32 or wider ``[count, D]``: ``sum of weights[n,k] * x[n]`` where ``places[n,k]`` is r.

    A row is a bag of the tokens that read it, in their order.
    """
    wide = torch.promote_types(torch.promote_types(weights.dtype, x.dtype), torch.float32)
    if not places.numel():
        return torch.zeros(count, x.shape[1], dtype=wide, device=x.device)
    read, order = torch.sort(places.reshape(-1), stable=True)
    offsets = torch.searchsorted(read, torch.arange(count + 1, device=places.device))
    return F.embedding_bag(
        order // places.shape[1],
        x.to(wide),
        offsets,
        mode="sum",
        per_sample_weights=weights.reshape(-1)[order].to(wide),
        include_last_offset=True,
    )
