"""Where tokens go: the router's answer, and what capacity leaves of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Routes:
    """Assignments of N tokens to E experts.

    Attributes:
        chosen: ``[N, K]`` expert numbers, best first; -1 where a token has no (further) expert.
        weights: ``[N, K]`` fp32, 0 where ``chosen`` is -1.
        logits: ``[N, E]`` fp32.
        scores: ``[N, E]`` fp32, what the experts were chosen and weighed by.
        wanted: ``[N, K]`` like ``chosen``, before any was dropped for lack of room: what balancing counts.
        dropped: share of the assignments that found no room, a scalar; None without a capacity.
        cut: ``[E]`` the lowest score with which an expert took a token; expert choice in training only.
    """

    chosen: Tensor
    weights: Tensor
    logits: Tensor
    scores: Tensor
    wanted: Tensor | None = None
    dropped: Tensor | None = None
    cut: Tensor | None = None

    @property
    def asked(self) -> Tensor:
        """``[N, K]`` whom the tokens asked for, room or not."""
        return self.chosen if self.wanted is None else self.wanted

    @property
    def probabilities(self) -> Tensor:
        """``[N, E]`` the scores as shares that sum to 1; softmax scores are that already."""
        return self.scores / self.scores.sum(-1, keepdim=True).clamp_min(1e-20)


def real_tokens(tokens: int, mask: Tensor | None, like: Tensor) -> Tensor:
    """How many of ``tokens`` are not padding, as a scalar on the device of ``like``."""
    return torch.tensor(tokens, device=like.device) if mask is None else mask.sum()


def limit(routes: Routes, *, capacity: float, mask: Tensor | None) -> Routes:
    """Drop what exceeds each expert's room of ``ceil(capacity * N * K / E)`` assignments (arXiv:2101.03961, eq. 3).

    First choices are seated before second ones, and earlier tokens before later ones (GShard, arXiv:2006.16668,
    algorithm 1). Padding (``mask`` False) takes no room and goes to no expert. A token whose every assignment is
    dropped passes by the experts: the residual stream carries it on.
    """
    chosen, (tokens, top_k), experts = routes.chosen, routes.chosen.shape, routes.scores.shape[-1]
    wanted = chosen >= 0 if mask is None else (chosen >= 0) & mask.unsqueeze(-1)
    # Sorting by expert keeps the order of the seating within each expert, so a place in line is a difference.
    line = torch.where(wanted, chosen, experts).t().reshape(-1)
    counts = torch.zeros(experts + 1, dtype=torch.long, device=line.device).scatter_add_(0, line, torch.ones_like(line))
    order = torch.argsort(line, stable=True)
    place = torch.empty_like(line)
    place[order] = torch.arange(len(line), device=line.device) - (counts.cumsum(0) - counts)[line[order]]
    room = torch.ceil(capacity * top_k * real_tokens(tokens, mask, chosen) / experts)
    kept = wanted & (place.view(top_k, tokens).t() < room)
    dropped = 1 - kept.sum() / wanted.sum().clamp_min(1)
    return replace(
        routes,
        chosen=torch.where(kept, chosen, -1),
        weights=torch.where(kept, routes.weights, 0.0),
        wanted=chosen,
        dropped=dropped,
    )


def room_of(tokens: int, *, top_k: int, experts: int) -> int:
    """Tokens that each expert takes when experts choose: an even share, rounded up, and never more than there are."""
    return min(tokens, math.ceil(tokens * top_k / experts))
