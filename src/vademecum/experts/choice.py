"""Who chooses whom: tokens their experts, or experts their tokens. Data in, assignments out; no parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vademecum.experts.routes import room_of
from vademecum.experts.tally import mean_over_processes
from vademecum.memory.exact import ExactBuffers

Chosen = tuple[Tensor, Tensor, Tensor | None]
"""``chosen [N, K]``, ``weights [N, K]`` and, where experts chose, the ``cut [E]``."""


class Choice(nn.Module, ABC):
    """Turns scores into assignments."""

    @abstractmethod
    def forward(self, scores: Tensor, ranked: Tensor, mask: Tensor | None, training: bool) -> Chosen:
        """Assignments from ``scores`` ``[N, E]``, which weigh, and ``ranked`` ``[N, E]``, which decide.

        ``mask`` ``[N]`` is False for padding; ``training`` says whether chance and sight of other tokens are allowed.
        """

    def learn(self, cut: Tensor) -> None:
        """Take note of the lowest scores ``[E]`` that were chosen in a training forward."""


class TokenChoice(Choice):
    """Every token takes its ``top_k`` best experts.

    ``renormalise`` divides the weights by their sum (Mixtral, arXiv:2401.04088, section 2.1); without it they are the
    scores (Switch, arXiv:2101.03961, equation 2; OLMoE, arXiv:2409.02060). ``sampled`` takes the second expert in
    training only with probability ``min(1, 2 w_2)`` (GShard, arXiv:2006.16668, algorithm 1): a second expert that
    would hardly count is often spared.
    """

    def __init__(self, top_k: int, *, renormalise: bool, sampled: bool = False) -> None:
        super().__init__()
        self.top_k, self.renormalise, self.sampled = top_k, renormalise, sampled

    def forward(self, scores: Tensor, ranked: Tensor, mask: Tensor | None, training: bool) -> Chosen:
        chosen = ranked.topk(self.top_k, dim=-1).indices
        weights = scores.gather(-1, chosen)
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-20)
        if self.sampled and training:
            spared = torch.rand(len(weights), device=weights.device) > 2 * weights.detach()[:, 1]
            gone = torch.zeros_like(chosen, dtype=torch.bool)
            gone[:, 1] = spared
            chosen, weights = torch.where(gone, -1, chosen), torch.where(gone, 0.0, weights)
        return chosen, weights, None

    def extra_repr(self) -> str:
        return f"top_k={self.top_k}, renormalise={self.renormalise}{', sampled' if self.sampled else ''}"


class ExpertChoice(ExactBuffers, Choice):
    """Every expert takes its even share of the tokens, its best ones (arXiv:2202.09368, section 3.1).

    In training an expert compares all tokens of the batch, later ones included: balance is perfect, and the choice
    (not the computation) sees the future. That cannot be kept up where tokens come one by one. So every expert learns
    the score at which it stops taking tokens, and outside of training a token goes to the experts whose threshold it
    reaches: a rule of the token alone, causal and the same for one token as for many. Loads are then only as even as
    the thresholds are right, which ``vm.record`` shows. Before any training each token takes its ``top_k`` best.

    Attributes:
        thresholds: ``[E]`` fp32, a running mean of the lowest score taken, over all processes.
        seen: ``[1]`` how many training forwards they stand for.
    """

    MOMENTUM = 0.95

    thresholds: Tensor
    seen: Tensor

    def __init__(self, top_k: int, experts: int, device: torch.device) -> None:
        super().__init__()
        self.top_k, self.experts = top_k, experts
        self.register_buffer("thresholds", torch.zeros(experts, dtype=torch.float32, device=device))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.long, device=device))

    def forward(self, scores: Tensor, ranked: Tensor, mask: Tensor | None, training: bool) -> Chosen:
        taken, cut = self._offered(scores, mask) if training else (self._reached(scores), None)
        most = int(taken.sum(-1).max()) if len(taken) else 0
        # Sorted by weight, the taken ones first; a token that nobody took has -1 throughout.
        weights, chosen = torch.where(taken, scores, -1.0).topk(max(most, 1), dim=-1)
        none = ~taken.gather(-1, chosen)
        return torch.where(none, -1, chosen), torch.where(none, 0.0, weights), cut

    def _offered(self, scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the experts take when they see all tokens: ``[N, E]`` and the lowest score each took, NaN for none."""
        offered = scores.detach() if mask is None else scores.detach().masked_fill(~mask.unsqueeze(-1), -1.0)
        real = len(scores) if mask is None else int(mask.sum())
        if not real:
            # All padding: nobody to take, and nothing to learn.
            return torch.zeros_like(scores, dtype=torch.bool), scores.new_full(scores.shape[-1:], torch.nan)
        best = offered.topk(room_of(real, top_k=self.top_k, experts=self.experts), dim=0)
        taken = torch.zeros_like(scores, dtype=torch.bool).scatter_(0, best.indices, True)
        # A single NaN would rank first and hide; such a forward's step is skipped, and teaches nothing here either.
        return taken, torch.where(offered.isfinite().all(), best.values[-1], torch.nan)

    def _reached(self, scores: Tensor) -> Tensor:
        """Which thresholds each token reaches, ``[N, E]``."""
        best = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, scores.topk(self.top_k).indices, True)
        return torch.where(self.seen > 0, scores >= self.thresholds, best)

    @torch.no_grad()
    def learn(self, cut: Tensor) -> None:
        cut = mean_over_processes(cut.float())
        # A forward that was not finite teaches nothing: the loop skips its step as well.
        good = cut.isfinite().all()
        # The first forwards count equally, so that the start of the running mean is no memory of zeros.
        step = torch.maximum(1.0 / (self.seen + 1), torch.tensor(1 - self.MOMENTUM, device=cut.device))
        self.thresholds.copy_(torch.where(good, self.thresholds.lerp(cut, step.float()), self.thresholds))
        self.seen.add_(good.to(self.seen.dtype))

    def extra_repr(self) -> str:
        return f"top_k={self.top_k}, experts={self.experts}"
