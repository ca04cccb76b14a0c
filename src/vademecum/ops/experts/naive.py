"""The specification of expert compute: one expert after the other, on the tokens that chose it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def run_experts(
    hidden: Tensor, chosen: Tensor, weights: Tensor, experts: int, apply: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """``out[n] = sum_k weights[n,k] * expert_{chosen[n,k]}(hidden[n])``.

    Args:
        hidden: ``[N, d]``.
        chosen: ``[N, k]`` expert numbers.
        weights: ``[N, k]``.
        experts: how many there are.
        apply: ``(expert number, [n, d]) -> [n, d]``.

    Returns:
        ``[N, d]`` in the dtype of ``hidden``.
    """
    out = torch.zeros_like(hidden)
    for expert in range(experts):
        token, rank = torch.where(chosen == expert)
        update = apply(expert, hidden[token]) * weights[token, rank, None].to(hidden.dtype)
        out = out.index_add(0, token, update.to(hidden.dtype))
    return out
