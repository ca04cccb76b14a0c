"""Rows into an update of the value stream: the parts that stand at the value site."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vademecum.lookup import Frame
from vademecum.memory.bank import Bank
from vademecum.memory.base import Cost, ValuePart
from vademecum.memory.gates import Gates
from vademecum.ops.mix import mix_slots


def mixed(rows: Tensor, gates: Tensor, frame: Frame) -> Tensor:
    """Sum of a token's slots ``[U, M, H, D]`` weighed by ``gates`` ``[N, H, M]``: ``[N, H, D]``."""
    return mix_slots(gates, rows.to(gates.device), frame.addresses().on(gates.device))


def sameness(gates: Tensor, mask: Tensor | None) -> Tensor:
    """How little a layer's slot gates ``[N, H, M]`` choose: a scalar, 0 where they never choose, at least -1.

    Less the mutual information of token and slot, a head's gates read as a distribution over its slots:
    ``mean_t H(p_t) - H(mean_t p_t)`` in units of ln M, mean over heads. It falls where each token opens few slots
    while all slots stay in use; a head that always opens the same slot gains nothing. Padding (``mask`` ``[N]``,
    False) is left out.
    """
    gates = gates.float()
    share = gates / gates.sum(-1, keepdim=True).clamp_min(1e-20)
    real = share.new_ones(len(share)) if mask is None else mask.to(share)
    real = real / real.sum().clamp_min(1.0)
    of_token = torch.einsum("n,nh->h", real, _entropy(share))
    of_mean = _entropy(torch.einsum("n,nhm->hm", real, share))
    return (of_token - of_mean).mean() / math.log(max(2, share.shape[-1]))


def _entropy(share: Tensor) -> Tensor:
    return -(share * share.clamp_min(1e-20).log()).sum(-1)


class SharedMix(ValuePart):
    """``v' = g_0 v + scale * sum_m g_m E[id, m]`` over a bank that all layers share (MoVE)."""

    def __init__(self, gates: Gates, slots: int, dim: int, scale: float, selectivity: float = 0.0) -> None:
        super().__init__()
        self.slots, self.dim, self.scale, self.selectivity = slots, dim, scale, selectivity
        self.gate = gates

    def forward(self, value: Tensor, hidden: Tensor, frame: Frame) -> Tensor:
        if frame.muted:
            return value
        gates: Tensor = self.gate(hidden).flatten(0, -3)
        if frame.recording:
            frame.report(self.key, per_token={"gates": gates})
        if frame.training and self.selectivity:
            frame.losses[f"{self.key}.selectivity"] = self.selectivity * sameness(gates[..., 1:], frame.mask)
        update = mixed(frame.shared[self.kind_key], self.scale * gates[..., 1:], frame)
        base = gates[..., 0].view(*value.shape[:-1], 1).to(value.dtype)
        out: Tensor = base * value + update.view_as(value).to(value.dtype)
        return out

    def cost(self) -> Cost:
        return self.gate.cost() + Cost(flops_per_token=2 * self.slots * self.gate.heads * self.dim)

    def extra_repr(self) -> str:
        selectivity = f", selectivity={self.selectivity:g}" if self.selectivity else ""
        return f"slots={self.slots}, scale={self.scale:g}{selectivity}"


class OwnTable(ValuePart):
    """``v' = v + g E_l[id]`` with a table of the layer's own (layer-wise value embeddings)."""

    def __init__(self, bank: Bank, gates: Gates) -> None:
        super().__init__()
        self.bank = bank
        self.gate = gates

    def forward(self, value: Tensor, hidden: Tensor, frame: Frame) -> Tensor:
        if frame.muted:
            return value
        gates: Tensor = self.gate(hidden).flatten(0, -3)
        if frame.recording:
            frame.report(self.key, per_token={"gates": torch.cat([torch.ones_like(gates), gates], dim=-1)})
        update = mixed(self.bank.read(frame), gates, frame)
        return value + update.view_as(value).to(value.dtype)

    def cost(self) -> Cost:
        flops = 2 * self.bank.slots * self.bank.heads * self.bank.dim
        return self.bank.cost() + self.gate.cost() + Cost(flops_per_token=flops)
