"""What is done with the rows that a hidden state found: values to add, or neurons to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vademecum.lookup import Frame
from vademecum.memory.base import Cost, FeedForwardPart, Role, dense_cost
from vademecum.memory.pool import Found, Pool
from vademecum.memory.product_keys import SCORES, ProductKeys
from vademecum.ops.weighted import weighted_sum
from vademecum.ops.weighted.neurons import neurons


class OutputGate(nn.Module):
    """``W2 (y * silu(W1 x))``: what was read, gated by the input and projected (Memory+, arXiv:2412.09764).

    Attributes:
        up: W1, ``[D, d]``; role ``router``.
        down: W2, ``[d, D]``.
    """

    role: ClassVar[Role] = Role.ROUTER

    def __init__(self, hidden: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, dtype=dtype, device=device).normal_(std=hidden**-0.5))

        self.up, self.down = drawn(width, hidden), drawn(hidden, width)

    def forward(self, read: Tensor, hidden: Tensor) -> Tensor:
        """``[N, d]`` from what was read ``[N, D]`` and the input ``[N, d]``."""
        return F.linear(read.to(hidden.dtype) * F.silu(F.linear(hidden, self.up)), self.down)

    def cost(self) -> Cost:
        return dense_cost(self, flops=2 * (self.up.numel() + self.down.numel()))


class Retrieval(FeedForwardPart):
    """Finds slots, weighs them and hands their rows on; beside the feed-forward or in its place.

    A knocked-out one adds nothing, in the feed-forward's place too.
    """

    def __init__(self, *, replace: bool) -> None:
        super().__init__()
        self.exclusive = replace

    def forward(self, hidden: Tensor, frame: Frame) -> Tensor:
        if frame.muted:
            return torch.zeros_like(hidden)
        flat = hidden.reshape(-1, hidden.shape[-1])
        weights, slots = self.chosen(flat, frame)
        pool = cast(Pool, frame.shared[self.kind_key])
        if frame.recording:
            self._report(slots, weights, pool.rows, frame)
        out = self.computed(flat, pool.found(slots.flatten(1), frame), weights.flatten(1))
        return out.to(hidden.dtype).view_as(hidden)

    def chosen(self, flat: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        """Weights (fp32 or wider) and slots ``[N, H, k]`` for ``flat`` ``[N, d]``; best first while recording."""
        raise NotImplementedError

    def computed(self, flat: Tensor, found: Found, weights: Tensor) -> Tensor:
        """Update ``[N, d]`` of ``flat`` ``[N, d]`` from the rows that were found, by ``weights`` ``[N, H * k]``."""
        raise NotImplementedError

    def _report(self, slots: Tensor, weights: Tensor, rows: int, frame: Frame) -> None:
        slots, weights = slots.detach(), weights.detach()
        if frame.mask is not None:
            padding = ~frame.mask.to(slots.device).view(-1, 1, 1)
            slots, weights = slots.masked_fill(padding, -1), weights.masked_fill(padding, 0.0)
        frame.report(
            self.key, per_token={"slots": slots, "weights": weights}, once={"rows": torch.tensor(rows)}
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{'in place of' if self.exclusive else 'beside'} the feed-forward"


class KeyRetrieval(Retrieval):
    """Finds slots by product keys, whose ``scores`` say what weights are made of theirs."""

    def __init__(self, keys: ProductKeys, scores: str, *, replace: bool) -> None:
        super().__init__(replace=replace)
        self.keys, self.scores = keys, scores

    def chosen(self, flat: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        scores, slots = self.keys(flat, frame, self.key)
        return SCORES[self.scores](scores), slots

    def settle(self, frame: Frame) -> None:
        tally = frame.tallies.get(self.key)
        if tally is not None:
            self.keys.norm.learn(tally)

    def extra_repr(self) -> str:
        return f"scores={self.scores}, {super().extra_repr()}"


class RetrievedValues(KeyRetrieval):
    """``sum_h sum_k w_hk V[slot_hk]``, through a gate where there is one."""

    def __init__(self, keys: ProductKeys, scores: str, width: int, gate: OutputGate | None, *, replace: bool) -> None:
        super().__init__(keys, scores, replace=replace)
        self.width, self.gate = width, gate

    def computed(self, flat: Tensor, found: Found, weights: Tensor) -> Tensor:
        read = weighted_sum(found.rows.flatten(1), found.places, weights, found.lent)
        if self.gate is None:
            return read
        gated: Tensor = self.gate(read, flat)
        return gated

    def cost(self) -> Cost:
        gate = Cost() if self.gate is None else self.gate.cost()
        return self.keys.cost() + gate + Cost(flops_per_token=2 * self.keys.heads * self.keys.topk * self.width)


class RetrievedNeurons(KeyRetrieval):
    """``sum_h sum_k w_hk act(u[slot_hk] . x) v[slot_hk]``: a row is a neuron, its weights in and its weights out."""

    def __init__(
        self, keys: ProductKeys, scores: str, width: int, act: Callable[[Tensor], Tensor], *, replace: bool
    ) -> None:
        super().__init__(keys, scores, replace=replace)
        self.width, self.act = width, act

    def computed(self, flat: Tensor, found: Found, weights: Tensor) -> Tensor:
        return neurons(found.rows, found.places, flat, weights, self.act, found.lent)

    def cost(self) -> Cost:
        return self.keys.cost() + Cost(flops_per_token=4 * self.keys.heads * self.keys.topk * self.width)
