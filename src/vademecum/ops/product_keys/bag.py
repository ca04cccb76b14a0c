"""Search of a block of tokens by PyTorch's own operators, on any device and in any type."""

from __future__ import annotations

import torch
from torch import Tensor


def select(halves: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores and slots ``[T, H, k]`` of the k best sums of ``halves`` ``[2H, T, n]``, first and second in turn."""
    count = halves.shape[-1]
    few = min(k, count)
    best = halves.view(-1, 2, *halves.shape[1:]).permute(2, 0, 1, 3).topk(few)
    first, second = pairs(few, k, halves.device)
    sums = best.values[:, :, 0, first] + best.values[:, :, 1, second]
    scores, chosen = sums.topk(k)
    slots = best.indices[:, :, 0, first] * count + best.indices[:, :, 1, second]
    return scores, slots.gather(-1, chosen)


def pairs(few: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ranks ``(i, j)``, from 0, whose sum can be among the k best: ``(i + 1) * (j + 1)`` sums are at least as large."""
    rank = torch.arange(1, few + 1, device=device)
    first, second = (rank[:, None] * rank <= k).nonzero(as_tuple=True)
    return first, second
