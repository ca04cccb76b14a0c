"""Experts of token embeddings at one layer: computed while they are trained, looked up when they were tabulated."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vademecum.experts.mlp import Experts
from vademecum.lookup import Frame, Lookup
from vademecum.memory.bank import Bank, CodedRows
from vademecum.memory.base import Cost, FeedForwardPart, Part, dense_cost
from vademecum.memory.gates import SoftmaxGates
from vademecum.memory.tables import normalised
from vademecum.ops import specified
from vademecum.ops.mix import mix_slots


class TokenMixture(FeedForwardPart):
    """``y = sum_n s_n(x) v_n[id]`` with ``s = softmax(W x)`` and N vectors ``v_n`` per token id."""

    def __init__(self, router: SoftmaxGates, *, replaces: bool) -> None:
        super().__init__()
        self.router = router
        self.exclusive = replaces

    @abstractmethod
    def read(self, frame: Frame) -> tuple[Tensor | CodedRows, Lookup]:
        """Rows ``[U, N, 1, d]`` of this forward, and which of them each token reads."""

    def prepare(self, frame: Frame) -> None:
        if not frame.muted:
            frame.shared[self.key] = self.read(frame)

    def forward(self, hidden: Tensor, frame: Frame) -> Tensor:
        if frame.muted:
            return torch.zeros_like(hidden)
        gates: Tensor = self.router(hidden).flatten(0, -3)
        if frame.recording:
            frame.report(self.key, per_token={"gates": torch.cat([torch.ones_like(gates[..., :1]), gates], dim=-1)})
        rows, lookup = frame.shared[self.key]
        rows, lookup = rows.to(gates.device), lookup.on(gates.device)
        mixed = rows.mixed(gates, lookup) if isinstance(rows, CodedRows) else mix_slots(gates, rows, lookup)
        return mixed.view_as(hidden).to(hidden.dtype)

    def _mixing(self, width: int) -> Cost:
        return self.router.cost() + Cost(flops_per_token=2 * self.router.gates * width)


class EmbeddingExperts(TokenMixture):
    """The vectors are what N feed-forward networks make of the token's embedding; computed once per distinct token."""

    def __init__(
        self, router: SoftmaxGates, experts: Experts, embedding: Callable[[], nn.Module], *, replaces: bool
    ) -> None:
        super().__init__(router, replaces=replaces)
        self.experts = experts
        # Asked for anew each time: a host may be given another, and it is no part of the memory to be saved with it. It
        # is a method of the host's, so that a copy of the host asks the copy.
        self._embedding: Callable[[], Any] = embedding

    def vectors(self, ids: Tensor) -> Tensor:
        """``[U, N, d]`` of token ids ``[U]``."""
        table = self._embedding()
        embedded = table(ids.to(table.weight.device)).to(self.router.weight.device)
        return self.experts.each(normalised(embedded))

    def read(self, frame: Frame) -> tuple[Tensor, Lookup]:
        lookup = frame.addresses()
        lookup.require_within(self._embedding().weight.shape[0])
        if lookup.whole or specified():
            lookup = Lookup.of_each(lookup.ids)
        return self.vectors(lookup.unique).unsqueeze(2), lookup

    def cost(self) -> Cost:
        flops = 2 * (self.experts.up.numel() + self.experts.down.numel())
        return dense_cost(self.experts, flops=flops) + self._mixing(self.experts.down.shape[-1])


class TabulatedExperts(TokenMixture):
    """The vectors are rows of a bank."""

    def __init__(self, router: SoftmaxGates, bank: Bank, *, replaces: bool) -> None:
        super().__init__(router, replaces=replaces)
        self.bank = bank

    def tabulate(self, computed: Part) -> None:
        assert isinstance(computed, EmbeddingExperts)
        self.router = computed.router
        self.bank.begin_as(computed.vectors)

    def read(self, frame: Frame) -> tuple[Tensor | CodedRows, Lookup]:
        return self.bank.read(frame), frame.addresses()

    def cost(self) -> Cost:
        return self.bank.cost() + self._mixing(self.bank.dim)
