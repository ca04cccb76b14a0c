"""Rows into an update of the value stream: the parts that stand at the value site."""

from __future__ import annotations

import torch
from torch import Tensor

from vademecum.lookup import Frame
from vademecum.memory.bank import Bank
from vademecum.memory.base import Cost, ValuePart
from vademecum.memory.gates import Gates
from vademecum.ops.mix import mix_slots

#: Square of a row's norm below which it has no direction.
TINY = 1e-6


def mixed(rows: Tensor, gates: Tensor, frame: Frame) -> Tensor:
    """Sum of a token's slots ``[U, M, H, D]`` weighed by ``gates`` ``[N, H, M]``: ``[N, H, D]``."""
    return mix_slots(gates, rows.to(gates.device), frame.addresses().on(gates.device))


def likeness(rows: Tensor, frame: Frame) -> Tensor:
    """How alike a token's slots are: the mean cosine between two rows of one token id, mean over tokens; a scalar.

    1 where all slots of every token point the same way, 0 where they are unrelated, at least -1/(M-1). It costs one
    Gram matrix per distinct id, however many layers read the rows. Padding is left out.

    Args:
        rows: ``[U, M, H, D]`` with M of 2 or more, the distinct rows of this forward.
        frame: whose tokens count how often each row was read.
    """
    lookup = frame.addresses().on(rows.device)
    real = rows.new_ones(len(lookup.inverse), dtype=torch.float32)
    real = real if frame.mask is None else frame.mask.to(real)
    read = real.new_zeros(len(rows)).index_add(0, lookup.inverse, real)
    with torch.autocast(rows.device.type, enabled=False):
        flat = rows.flatten(2).float()
        gram = flat @ flat.transpose(1, 2)
        # Squares are added to, not clamped: a row of zeros, as all are at the start, then has a gradient (of zero).
        size = (gram.diagonal(dim1=1, dim2=2) + TINY).rsqrt()
        cosine = size.unsqueeze(1) * gram * size.unsqueeze(2)
        pairs = cosine.sum((1, 2)) - cosine.diagonal(dim1=1, dim2=2).sum(-1)
        return (read @ pairs) / (read.sum().clamp_min(1.0) * flat.shape[1] * (flat.shape[1] - 1))


class SharedMix(ValuePart):
    """``v' = g_0 v + scale * sum_m g_m E[id, m]`` over a bank that all layers share (MoVE).

    ``selectivity`` is the weight of :func:`likeness` as an auxiliary loss; one layer has it, on behalf of all.
    """

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
            frame.losses[f"{self.key}.selectivity"] = self.selectivity * likeness(frame.shared[self.kind_key], frame)
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
