"""Token choice: which experts a token goes to, and with what weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vademecum.memory.base import Cost, Role, dense_cost


@dataclass(frozen=True)
class Routes:
    """Where tokens go. ``chosen`` and ``weights`` ``[N, k]``, ``logits`` and ``scores`` ``[N, E]`` in fp32."""

    chosen: Tensor
    weights: Tensor
    logits: Tensor
    scores: Tensor


class Router(nn.Module):
    """Softmax over all experts in fp32, then the k best.

    With one active expert its probability is its weight (Switch Transformer, arXiv:2101.03961, equation 2): a weight
    renormalised over one expert would be the constant 1 and the router would learn nothing from the task. With
    several, the weights are renormalised to sum to 1 (Mixtral, arXiv:2401.04088, section 2).

    Attributes:
        weight: ``[E, d]``, role ``router``.
    """

    role: ClassVar[Role] = Role.ROUTER

    def __init__(self, hidden: int, experts: int, top_k: int, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.experts, self.top_k = experts, top_k
        self.weight = nn.Parameter(torch.empty(experts, hidden, dtype=dtype, device=device))
        nn.init.normal_(self.weight, std=1 / math.sqrt(hidden))

    def forward(self, hidden: Tensor, bias: Tensor | None = None) -> Routes:
        """Routes of ``hidden`` ``[N, d]``; ``bias`` ``[E]`` moves the choice, never the weights (arXiv:2408.15664)."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(hidden.float(), self.weight.float())
            scores = logits.softmax(-1)
            ranked = scores if bias is None else scores + bias
            chosen = ranked.topk(self.top_k, dim=-1).indices
            weights = scores.gather(-1, chosen)
            if self.top_k > 1:
                weights = weights / weights.sum(-1, keepdim=True)
        return Routes(chosen, weights, logits, scores)

    def cost(self) -> Cost:
        """One small matrix product."""
        return dense_cost(self, flops=2 * self.weight.numel())

    def extra_repr(self) -> str:
        return f"experts={self.experts}, top_k={self.top_k}"
