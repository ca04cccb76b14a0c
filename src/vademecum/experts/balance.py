"""Keeping experts in use: auxiliary losses, or a bias that moves the choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vademecum.experts.router import Routes
from vademecum.lookup import Frame


def mean_over(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``values`` ``[N, ...]`` over the real tokens; ``mask`` ``[N]`` is True where a token is not padding."""
    if mask is None:
        return values.mean(0)
    real = mask.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
    return (values * real).sum(0) / real.sum().clamp_min(1.0)


def load_of(routes: Routes, mask: Tensor | None) -> Tensor:
    """Share of the assignments that each expert got: ``[E]``, sums to 1; padding does not count."""
    tokens, top_k = routes.chosen.shape
    share = routes.scores.new_ones(tokens) if mask is None else mask.to(routes.scores.dtype)
    counts = routes.scores.new_zeros(routes.scores.shape[-1])
    counts = counts.scatter_add(0, routes.chosen.reshape(-1), share.repeat_interleave(top_k))
    return counts / counts.sum().clamp_min(1.0)


def z_loss(routes: Routes, mask: Tensor | None) -> Tensor:
    """Mean squared log-partition of the router's logits (ST-MoE, arXiv:2202.08906, equation 5); a scalar."""
    return mean_over(torch.logsumexp(routes.logits, -1).square(), mask)


class Balance(nn.Module, ABC):
    """A way to keep the load even."""

    def bias(self) -> Tensor | None:
        """What is added to the scores before the choice, ``[E]``, or None."""
        return None

    def loss(self, routes: Routes, load: Tensor, mask: Tensor | None) -> Tensor | None:
        """Auxiliary loss of one layer and micro-batch, a weighted scalar, or None."""
        return None

    @abstractmethod
    def settle(self, key: str, frame: Frame) -> None:
        """Learn from a training forward's load."""


class Free(Balance):
    """No balancing."""

    def settle(self, key: str, frame: Frame) -> None:
        """Nothing to learn."""


class AuxiliaryLoss(Balance):
    """``weight * E * sum_i f_i P_i`` per layer and micro-batch (Switch Transformer, arXiv:2101.03961, equation 4).

    ``f_i`` is the share of assignments (it sums to 1 for any k) and ``P_i`` the mean probability, so perfect balance
    gives exactly ``weight``.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, routes: Routes, load: Tensor, mask: Tensor | None) -> Tensor:
        return self.weight * len(load) * (load * mean_over(routes.scores, mask)).sum()

    def settle(self, key: str, frame: Frame) -> None:
        """Nothing to learn."""

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}"


class BiasBalance(Balance):
    """A bias per expert that rises while its load is below the mean (DeepSeek-V3; arXiv:2408.15664, algorithm 1).

    The update is ``b += rate * sign(mean - load)``, centred so that the biases do not drift together. It is made after
    every training forward, on that micro-batch's load: with gradient accumulation the bias moves once per micro-batch.
    Under DistributedDataParallel every process has rank 0's biases, because buffers are broadcast from there.

    Attributes:
        offsets: ``[E]`` fp32 buffer.
    """

    offsets: Tensor

    def __init__(self, experts: int, rate: float, device: torch.device) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("offsets", torch.zeros(experts, dtype=torch.float32, device=device))

    def bias(self) -> Tensor:
        return self.offsets

    @torch.no_grad()
    def settle(self, key: str, frame: Frame) -> None:
        load = frame.loads[key]
        step = self.rate * torch.sign(load.mean() - load)
        self.offsets.add_(step - step.mean())

    def _apply(self, fn: Any, recurse: bool = True) -> BiasBalance:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # A host in half precision would round the small steps away.
        self.offsets = self.offsets.float()
        return self

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


#: How a balance is made from (number of experts, weight or None for the default, device), by its name in a config.
BALANCES: Mapping[str | None, Callable[[int, float | None, torch.device], Balance]] = {
    "aux": lambda experts, weight, device: AuxiliaryLoss(0.01 if weight is None else weight),
    "bias": lambda experts, rate, device: BiasBalance(experts, 0.001 if rate is None else rate, device),
    None: lambda experts, weight, device: Free(),
}
