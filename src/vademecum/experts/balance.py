"""Keeping experts in use: auxiliary losses, or a bias that moves the choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from vademecum.experts.routes import Routes
from vademecum.experts.tally import Tally
from vademecum.memory.exact import ExactBuffers


def mean_over(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``values`` ``[N, ...]`` over the real tokens; ``mask`` ``[N]`` is True where a token is not padding."""
    if mask is None:
        return values.mean(0)
    real = mask.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
    return (values * real).sum(0) / real.sum().clamp_min(1.0)


def counts_of(chosen: Tensor, experts: int, mask: Tensor | None) -> Tensor:
    """Assignments that each expert got, ``[E]`` fp32, from ``chosen`` ``[N, K]``; neither padding nor -1 counts."""
    counts = torch.zeros(experts + 1, dtype=torch.float32, device=chosen.device)
    named = torch.where(chosen < 0, experts, chosen)
    if mask is not None:
        named = torch.where(mask.unsqueeze(-1), named, experts)
    return counts.scatter_add_(0, named.reshape(-1), counts.new_ones(named.numel()))[:experts]


def share_of(counts: Tensor) -> Tensor:
    """Counts ``[E]`` as shares that sum to 1, or zeros where nothing was counted."""
    return counts / counts.sum().clamp_min(1.0)


def z_loss(routes: Routes, mask: Tensor | None) -> Tensor:
    """Mean squared log-partition of the router's logits (ST-MoE, arXiv:2202.08906, equation 5); a scalar."""
    return mean_over(torch.logsumexp(routes.logits, -1).square(), mask)


class Balance(nn.Module, ABC):
    """A way to keep the load even."""

    def bias(self) -> Tensor | None:
        """What is added to the scores before the choice, ``[E]``, or None."""
        return None

    def begin(self, router: nn.Parameter) -> None:
        """Called before a training forward, with the router's weight."""

    @abstractmethod
    def settle(self, counts: Tensor, probability: Tensor) -> Tensor | None:
        """Take a training forward's ``counts`` ``[E]`` and mean ``probability`` ``[E]``; a weighted loss or None."""


class Free(Balance):
    """No balancing."""

    def settle(self, counts: Tensor, probability: Tensor) -> Tensor | None:
        return None


class AuxiliaryLoss(Balance):
    """``weight * E * sum_i f_i P_i``, layer by layer (Switch Transformer, arXiv:2101.03961, equation 4).

    ``f_i`` is the share of *assignments* (it sums to 1 for any k, where Transformers counts assignments per token) and
    ``P_i`` the mean probability, so perfect balance costs exactly ``weight``. Layers are never pooled: imbalances of
    two layers would cancel.

    Scope "micro" takes ``f`` from the forward at hand, one micro-batch of one process. Scope "global" takes it from all
    processes and from all micro-batches of the optimizer's step so far (arXiv:2501.11873, section 3): a domain may
    then keep its own experts, as long as the whole batch uses all of them. ``P`` is always the forward's own, since
    only it can carry a gradient.
    """

    def __init__(self, weight: float, tally: Tally | None) -> None:
        super().__init__()
        self.weight = weight
        self.tally = tally

    def begin(self, router: nn.Parameter) -> None:
        if self.tally is not None:
            self.tally.begin(router)

    def settle(self, counts: Tensor, probability: Tensor) -> Tensor:
        if self.tally is not None:
            counts = self.tally.add(counts)
        return self.weight * len(counts) * (share_of(counts) * probability).sum()

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}, scope={'micro' if self.tally is None else 'global'}"


class BiasBalance(ExactBuffers, Balance):
    """A bias per expert that rises while its load is below the mean (DeepSeek-V3; arXiv:2408.15664, algorithm 1).

    The update is ``b += rate * sign(mean - load)``, centred so that the biases do not drift together. It is made once
    per optimizer step, when the next forward begins, from the loads of all that step's micro-batches and processes.
    There is no loss.

    Attributes:
        offsets: ``[E]`` fp32 buffer; a host in half precision would round the small steps away.
    """

    offsets: Tensor

    def __init__(self, experts: int, rate: float, device: torch.device) -> None:
        super().__init__()
        self.rate = rate
        self.tally = Tally(experts, device)
        self.register_buffer("offsets", torch.zeros(experts, dtype=torch.float32, device=device))

    def bias(self) -> Tensor:
        return self.offsets

    @torch.no_grad()
    def begin(self, router: nn.Parameter) -> None:
        counts = self.tally.begin(router)
        # All zeros (no step lies behind, or nothing was counted) move nothing: the sign of 0 is 0.
        step = self.rate * torch.sign(counts.mean() - counts)
        self.offsets.add_(step - step.mean())

    def settle(self, counts: Tensor, probability: Tensor) -> None:
        self.tally.add(counts)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


Maker = Callable[[int, float | None, str, torch.device], Balance]

#: How a balance is made from (number of experts, weight or None for the default, scope, device), by its name.
BALANCES: Mapping[str | None, Maker] = {
    "aux": lambda experts, weight, scope, device: AuxiliaryLoss(
        0.01 if weight is None else weight, Tally(experts, device) if scope == "global" else None
    ),
    "bias": lambda experts, rate, scope, device: BiasBalance(experts, 0.001 if rate is None else rate, device),
    None: lambda experts, weight, scope, device: Free(),
}

SCOPES = ("micro", "global")
"""What an auxiliary loss counts over: one forward, or one optimizer step of all processes."""
