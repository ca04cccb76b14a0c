"""How much of a table that hidden states look up is used, and how evenly (arXiv:1907.05242).

Two numbers look alike and are not: the share of slots that anything was read from can be near one while nearly all
tokens have the same few slots first (EMNLP Findings 2020, "Large Product Key Memory for Pretrained Language Models"),
so the share of slots that are somebody's first stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Usage:
    """How a layer used a table of N slots, over the tokens it was given.

    With ``z[s]`` the sum of slot s's weights over tokens and heads, divided by the sum over all slots:

    ``share``: slots with ``z > 0``, over N. ``first``: slots that were the best of some head at some token, over N.
    ``unevenness``: KL divergence of z to the uniform distribution, ``ln N + sum z ln z``, in nats: 0 where all slots
    are used alike, ln N where one is used alone; NaN where nothing was read.
    ``reads``: how often a slot was read, padding left out. A share cannot exceed ``reads / N``: few tokens say little.
    """

    share: float
    first: float
    unevenness: float
    reads: int


def usage(slots: Tensor, weights: Tensor, rows: int) -> Usage:
    """Statistics of one layer.

    Args:
        slots: int64 ``[N, H, k]``, best first, -1 for none.
        weights: ``[N, H, k]``, 0 or more.
        rows: N, slots that there are.

    Raises:
        ValueError: shapes that do not belong together, a slot that there is not, or a negative weight.
    """
    slots, weights = slots.detach().cpu(), weights.detach().double().cpu()
    if slots.dim() != 3 or slots.shape != weights.shape or bool((weights < 0).any()):
        raise ValueError(
            f"slots {list(slots.shape)} and weights {list(weights.shape)} were given; expected both [N, H, k], and "
            f"weights of 0 or more."
        )
    if slots.numel() and not -1 <= int(slots.min()) <= int(slots.max()) < rows:
        raise ValueError(f"slots {int(slots.min())} to {int(slots.max())} were given, but there are {rows}.")
    real = slots >= 0
    mass = torch.zeros(rows, dtype=torch.float64).index_add_(0, slots[real], weights[real])
    used = mass[mass > 0] / mass.sum()
    best = slots[..., 0]
    return Usage(
        share=len(used) / rows,
        first=len(torch.unique(best[best >= 0])) / rows,
        unevenness=math.log(rows) + float((used * used.log()).sum()) if len(used) else math.nan,
        reads=int(real.sum()),
    )


def usages(forwards: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> dict[str, Usage]:
    """Usage per layer over recorded forwards (``rec.forwards``), by the record's key such as ``product_key.layers.3``.

    Layers that look nothing up by hidden states are left out.
    """
    found: dict[str, Usage] = {}
    for key in dict.fromkeys(key for forward in forwards for key, values in forward.items() if "slots" in values):
        mine = [forward[key] for forward in forwards if key in forward]
        slots, weights = (torch.cat([each[name].cpu() for each in mine]) for name in ("slots", "weights"))
        found[key] = usage(slots, weights, int(mine[0]["rows"]))
    return found
