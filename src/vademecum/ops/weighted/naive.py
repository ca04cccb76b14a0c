"""The specification of weighted sums of rows and of dot products with rows: gather, then one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_sum(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """``out[n] = sum_k weights[n,k] * rows[places[n,k]]``; shapes as in :mod:`vademecum.ops.weighted`."""
    wide = torch.promote_types(rows.dtype, weights.dtype)
    read = rows[places].to(wide)
    return torch.matmul(weights.unsqueeze(-2).to(wide), read).squeeze(-2).to(weights.dtype)


def dots(rows: Tensor, places: Tensor, x: Tensor) -> Tensor:
    """``out[n,k] = rows[places[n,k]] . x[n]``; shapes as in :mod:`vademecum.ops.weighted`."""
    wide = torch.promote_types(rows.dtype, x.dtype)
    read = rows[places].to(wide)
    return torch.matmul(read, x.unsqueeze(-1).to(wide)).squeeze(-1).to(x.dtype)
