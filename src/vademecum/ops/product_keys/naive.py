"""The specification of product-key search: all n * n sums, and the k largest of them."""

from __future__ import annotations

import torch
from torch import Tensor


def search(query: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of all slots; shapes as in :func:`vademecum.ops.product_keys.search`."""
    heads, _, count, half = keys.shape
    wide = torch.promote_types(torch.promote_types(query.dtype, keys.dtype), torch.float32)
    parts = query.to(wide).view(len(query), heads, 2, half)
    halves = torch.matmul(keys.to(wide), parts.unsqueeze(-1)).squeeze(-1)
    sums = halves[:, :, 0, :, None] + halves[:, :, 1, None, :]
    best = sums.reshape(len(query), heads, count * count).topk(k)
    return best.values, best.indices
