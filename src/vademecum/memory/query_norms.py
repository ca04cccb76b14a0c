"""How queries are normalised before they meet keys: not at all, each by itself, or over the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vademecum.lookup import Frame
from vademecum.memory.base import Role
from vademecum.memory.exact import ExactBuffers

EPS = 1e-5


class QueryNorm(nn.Module):
    """Leaves queries and keys as they are.

    Attributes:
        biased: whether a bias before it would be felt.
    """

    role: ClassVar[Role] = Role.ROUTER
    biased: ClassVar[bool] = True

    def forward(self, query: Tensor, keys: Tensor, frame: Frame, key: str) -> tuple[Tensor, Tensor]:
        """``query`` ``[N, H, D]`` and ``keys`` ``[..., D/2]``, normalised; ``key`` is the layer's name in the frame."""
        return query, keys

    def learn(self, tally: Mapping[str, Tensor]) -> None:
        """Take note of what a training forward wrote under its layer's key."""


class RootMeanSquare(QueryNorm):
    """Each head's query by its own root mean square, under a learned gain; keys at unit length (QK-normalisation).

    A score of a half is then at most the gain times the root of its width, whatever the weights have grown to. The
    Memory Layers paper's figure 3 (arXiv:2412.09764) has such norms on queries and keys.
    """

    def __init__(self, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(heads, width, dtype=dtype, device=device))

    def forward(self, query: Tensor, keys: Tensor, frame: Frame, key: str) -> tuple[Tensor, Tensor]:
        wide = _wide(query)
        unit = wide * (wide.square().mean(-1, keepdim=True) + EPS).rsqrt()
        return unit * self.gain, F.normalize(_wide(keys), dim=-1)


class BatchNorm(ExactBuffers, QueryNorm):
    """Each feature over the batch (arXiv:1907.05242), which spreads queries over more of the slots.

    In training the statistics are those of the forward's real tokens, padding left out: a token's query then depends
    on all tokens of the batch, later ones of its own text included, so training is not strictly causal. Outside of
    training the running statistics are used, fixed numbers: answers are causal, the same for one token as for many, and
    never depend on what else is in the batch. Several processes each have statistics of their own.

    Attributes:
        mean: ``[H, D]`` fp32, running mean over training forwards.
        variance: ``[H, D]`` fp32, the same of the variance.
        seen: ``[1]`` how many training forwards they stand for.
    """

    MOMENTUM = 0.9
    biased = False

    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(heads, width, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.zeros(heads, width, dtype=dtype, device=device))
        self.register_buffer("mean", torch.zeros(heads, width, dtype=torch.float32, device=device))
        self.register_buffer("variance", torch.ones(heads, width, dtype=torch.float32, device=device))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.long, device=device))

    def forward(self, query: Tensor, keys: Tensor, frame: Frame, key: str) -> tuple[Tensor, Tensor]:
        wide = _wide(query)
        mean, variance = self.mean, self.variance
        if frame.training:
            mean, variance, count = _statistics(wide, frame.mask)
            # Written down, not learned here: a recomputed forward would otherwise teach twice.
            frame.tallies[key] = {"mean": mean.detach(), "variance": variance.detach(), "count": count}
        return (wide - mean) * (variance + EPS).rsqrt() * self.gain + self.bias, keys

    @torch.no_grad()
    def learn(self, tally: Mapping[str, Tensor]) -> None:
        mean, variance = tally["mean"].float(), tally["variance"].float()
        # One that was not finite teaches nothing, nor does one token, which does not vary; the first count equally.
        good = mean.isfinite().all() & variance.isfinite().all() & (tally["count"] >= 2)
        step = torch.maximum(1.0 / (self.seen + 1), torch.tensor(1 - self.MOMENTUM, device=mean.device)).float()
        self.mean.copy_(torch.where(good, self.mean.lerp(mean, step), self.mean))
        self.variance.copy_(torch.where(good, self.variance.lerp(variance, step), self.variance))
        self.seen.add_(good.to(self.seen.dtype))


NORMS: Mapping[str, Callable[[int, int, torch.dtype, torch.device], QueryNorm]] = {
    "none": lambda *_: QueryNorm(),
    "rms": RootMeanSquare,
    "batch": BatchNorm,
}
"""By name, how a norm is made from heads, width of a head's query, type and device."""


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _statistics(query: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance ``[H, D]`` of ``query`` ``[N, H, D]`` over the tokens that ``mask`` ``[N]`` says are real.

    How many those are stands beside them.
    """
    if mask is None:
        count = torch.tensor(float(len(query)), device=query.device)
        return query.mean(0), query.var(0, correction=0), count
    real = mask.to(query).view(-1, 1, 1)
    count = real.sum()
    least = count.clamp_min(1.0)
    mean = (query * real).sum(0) / least
    return mean, ((query - mean).square() * real).sum(0) / least, count.detach()
