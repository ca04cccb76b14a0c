"""The specification of the mix: gather each token's slots, weigh them, add them."""

from __future__ import annotations

import torch
from torch import Tensor


def mix_slots(gates: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """``out[n,h,:] = sum_m gates[n,h,m] * rows[inverse[n], m, h, :]``.

    Args:
        gates: ``[N, H, M]``.
        rows: ``[U, M, H, D]``; computed in the wider of both dtypes.
        inverse: ``[N]`` index into the U rows.

    Returns:
        ``[N, H, D]`` in the dtype of ``gates``.
    """
    wide = torch.promote_types(gates.dtype, rows.dtype)
    read = rows[inverse].transpose(1, 2).to(wide)
    # A product of matrices even for one slot, so that whoever counts operations sees all of them.
    return torch.matmul(gates.unsqueeze(-2).to(wide), read).squeeze(-2).to(gates.dtype)
