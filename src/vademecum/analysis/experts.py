"""Who does the work among the experts: load, evenness, experts nobody asks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

DEAD_SHARE = 0.01


@dataclass(frozen=True)
class Load:
    """Load of one layer's experts.

    ``share[e]`` is expert e's share of all assignments (they sum to 1); ``entropy`` is that of the shares over ln E
    (1 = even); ``max_violation`` (MaxVio) is the largest share over the mean share, minus 1 (0 = even); ``dead``
    counts experts that get less than 1 % of the mean share.
    """

    share: list[float]
    entropy: float
    max_violation: float
    dead: int


def load(share: Tensor) -> Load:
    """Statistics of one layer's load, [experts], counts or shares. All-zero or negative loads raise ValueError."""
    share = share.detach().double().cpu()
    total = float(share.sum())
    if share.dim() != 1 or total <= 0 or bool((share < 0).any()):
        raise ValueError(
            f"a load is a vector of shares with a positive sum, got shape {tuple(share.shape)} and sum {total:g}."
        )
    share = share / total
    experts = share.numel()
    entropy = float(-(share * share.clamp_min(1e-30).log()).sum()) / math.log(experts) if experts > 1 else 1.0
    return Load(
        share=share.tolist(),
        entropy=entropy,
        max_violation=float(share.max()) * experts - 1,
        dead=int((share < DEAD_SHARE / experts).sum()),
    )


def loads(forwards: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> dict[str, Load]:
    """Load per layer over all recorded forwards (``rec.forwards``), by the record's key such as "moe.layers.3".

    Forwards of different length are weighted by their tokens, where the record says who went where.
    """
    sums: dict[str, Tensor] = {}
    for forward in forwards:
        for key, values in forward.items():
            if "load" not in values:
                continue
            weight = values["experts"].shape[0] if "experts" in values else 1
            share = values["load"].detach().double().cpu() * weight
            sums[key] = sums[key] + share if key in sums else share
    return {key: load(value) for key, value in sums.items() if float(value.sum()) > 0}


def layer_of(key: str) -> int:
    """The layer's number in a record key: 3 for "moe.layers.3"."""
    return int(key.rsplit(".", 1)[-1])
