"""Which tokens and which domains open which gates of a value memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vademecum.analysis.specialisation import LEAST_OCCURRENCES


@dataclass(frozen=True)
class Opener:
    """A token id, how wide it opens one gate on average, and over how many occurrences."""

    id: int
    gate: float
    count: int


def gates_by_domain(gates: Tensor, domains: Tensor, *, kinds: int) -> Tensor:
    """Mean gate by domain, ``[D, H, M+1]``: Σ g(n) / N(D) over a domain's tokens; NaN for a domain without any.

    Args:
        gates: ``[N, H, M+1]`` as ``vm.record`` gives them, the host's own value first; 0 shut, 1 neutral, 2 open.
        domains: ``[N]``, 0 to ``kinds`` - 1.
        kinds: domains D.
    """
    means, _ = _means(gates, domains, kinds)
    return means


def openers(gates: Tensor, ids: Tensor, *, top: int = 8, least: int = LEAST_OCCURRENCES) -> list[list[list[Opener]]]:
    """The ids with the largest mean gate, for each head and each of the M+1 gates: ``found[h][m]``, widest first.

    Args:
        gates: ``[N, H, M+1]``.
        ids: ``[N]`` input ids.
        top: ids to give, fewer where there are not so many.
        least: occurrences below which an id is left out: a mean over few says little.
    """
    known, inverse = torch.unique(ids, return_inverse=True)
    means, counts = _means(gates, inverse, len(known))
    often = (counts >= least).nonzero().squeeze(1)
    means, known, counts = means[often], known[often], counts[often]
    order = means.argsort(dim=0, descending=True, stable=True)[:top]
    return [
        [
            [Opener(int(known[i]), float(means[i, h, m]), int(counts[i])) for i in order[:, h, m].tolist()]
            for m in range(gates.shape[2])
        ]
        for h in range(gates.shape[1])
    ]


def strongest_slot(gates: Tensor) -> tuple[Tensor, Tensor]:
    """For each token the slot with the largest gate, heads averaged, and that gate: ``[N]`` and ``[N]``.

    The gate on the host's own value is no slot. ``gates`` is ``[N, H, M+1]``.
    """
    gate, slot = gates[:, :, 1:].mean(1).max(1)
    return slot, gate


def _means(gates: Tensor, labels: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    if gates.dim() != 3 or labels.shape != gates.shape[:1]:
        raise ValueError(
            f"got gates of shape {tuple(gates.shape)} and labels of shape {tuple(labels.shape)}; expected "
            "[N, H, M+1] and [N]."
        )
    sums = torch.zeros(kinds, *gates.shape[1:], dtype=torch.float64).index_add_(0, labels, gates.double())
    counts = torch.bincount(labels, minlength=kinds)
    return sums / counts[:, None, None], counts
