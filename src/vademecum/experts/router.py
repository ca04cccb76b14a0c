"""The router: scores in fp32, then whoever chooses, then what there is room for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vademecum.experts.choice import Choice
from vademecum.experts.routes import Routes, limit
from vademecum.memory.base import Cost, Role, dense_cost

SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
}
"""Scores ``[N, E]`` from logits: experts compete, or each answers for itself (DeepSeek-V3, arXiv:2412.19437)."""


class NotFinite(ArithmeticError):
    """A router put out NaN or infinity outside of training."""


@dataclass(frozen=True, kw_only=True)
class Routing:
    """What the router needs to know of one forward.

    ``mask`` ``[N]`` is False for padding, None where all tokens are real; ``bias`` ``[E]`` moves the choice, never the
    weights (arXiv:2408.15664).
    """

    training: bool = False
    mask: Tensor | None = None
    bias: Tensor | None = None


class Router(nn.Module):
    """Scores of all experts and the assignments that follow from them.

    Logits, scores and weights are fp32 whatever the autocast. A capacity holds in training alone: dropping a token
    because others came before it would make an answer depend on what else is in the batch.

    Attributes:
        weight: ``[E, d]``, role ``router``.
    """

    role: ClassVar[Role] = Role.ROUTER

    def __init__(
        self,
        hidden: int,
        experts: int,
        choice: Choice,
        *,
        scores: str = "softmax",
        capacity: float | None = None,
        jitter: float = 0.0,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Make a router; ``jitter`` e multiplies its input by U(1-e, 1+e) in training (Switch, section 2.4)."""
        super().__init__()
        self.experts, self.scores, self.capacity, self.jitter = experts, scores, capacity, jitter
        self.choice = choice
        self.weight = nn.Parameter(torch.empty(experts, hidden, dtype=dtype, device=device))
        nn.init.normal_(self.weight, std=1 / math.sqrt(hidden))

    def forward(self, hidden: Tensor, routing: Routing | None = None) -> Routes:
        """Routes of ``hidden`` ``[N, d]``.

        Raises:
            NotFinite: a logit is NaN or infinite outside of training. In training it comes through into the loss,
                where the loop counts and skips the step; in a compiled graph it comes through into the logits.
        """
        routing = routing or Routing()
        with torch.autocast(hidden.device.type, enabled=False):
            x = hidden.float()
            if self.jitter and routing.training:
                x = x * (1 + self.jitter * (2 * torch.rand_like(x) - 1))
            logits = F.linear(x, self.weight.float())
            if not routing.training:
                self._require_finite(logits)
            scores = SCORES[self.scores](logits)
            ranked = scores if routing.bias is None else scores + routing.bias
            chosen, weights, cut = self.choice(scores, ranked, routing.mask, routing.training)
            routes = Routes(chosen, weights, logits, scores, cut=cut)
            if self.capacity is not None and routing.training:
                routes = limit(routes, capacity=self.capacity, mask=routing.mask)
        return routes

    def _require_finite(self, logits: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        wrong = int((~logits.isfinite()).any(-1).sum())
        if wrong:
            raise NotFinite(
                f"the router put out NaN or infinity for {wrong} of {len(logits)} tokens; its input or its weights "
                f"are not finite. Load an earlier checkpoint, or train again with a lower learning rate."
            )

    def cost(self) -> Cost:
        """One small matrix product."""
        return dense_cost(self, flops=2 * self.weight.numel())

    def extra_repr(self) -> str:
        limits = f", capacity={self.capacity:g}" if self.capacity is not None else ""
        return f"experts={self.experts}, scores={self.scores}{limits}{f', jitter={self.jitter:g}' * bool(self.jitter)}"
