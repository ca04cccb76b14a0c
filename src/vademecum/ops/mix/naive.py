"""The specification of the mix: gather each token's slots, weigh them, add them."""

from __future__ import annotations

import torch
from torch import Tensor


def mix_slots(gates: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """``out[n,h,:] = sum_m gates[n,h,m] * rows[inverse[n], m, h, :]``.

    Args:
        gates: ``[N, H, M]``.
        rows: ``[U, M, H, D]``.
        inverse: ``[N]`` index into the U rows.

    Returns:
        ``[N, H, D]``.
    """
    # A product of matrices even for one slot, so that whoever counts operations sees all of them.
    return torch.matmul(gates.unsqueeze(-2), rows[inverse].transpose(1, 2)).squeeze(-2)
