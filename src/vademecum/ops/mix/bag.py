"""The mix as one ``embedding_bag``, for any device and for compiled graphs: a (token, head) is a bag of M rows.

Nothing of size tokens x slots x width is made in either direction, and the gradient of ``rows`` is dense only over
the rows that were read. The indices depend on the ids alone and come ready from the lookup.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mix_slots(gates: Tensor, rows: Tensor, bags: Tensor) -> Tensor:
    """Same result as the specification.

    Args:
        gates: ``[N, H, M]``.
        rows: ``[U, M, H, D]``.
        bags: ``[N*H, M]`` indices into ``rows`` seen as ``[U*M*H, D]``.

    Returns:
        ``[N, H, D]`` in the dtype of ``gates``; computed in that of ``rows`` or wider.
    """
    tokens, heads, slots = gates.shape
    if rows.is_cuda and rows.dtype != torch.float64:
        rows = rows.float()  # on a GPU its gradient knows no narrower type
    table = rows.reshape(-1, rows.shape[-1])
    weights = gates.reshape(tokens * heads, slots).to(rows.dtype)
    mixed = F.embedding_bag(bags, table, mode="sum", per_sample_weights=weights)
    return mixed.view(tokens, heads, -1).to(gates.dtype)
