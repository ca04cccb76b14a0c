"""Rows into an update of the value stream: the parts that stand at the value site."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vademecum.lookup import Frame
from vademecum.memory.bank import Bank, CodedRows
from vademecum.memory.base import Cost, ValuePart
from vademecum.memory.gates import Gates
from vademecum.ops.mix import blend, decode, mix_slots

#: Square of a gated row's norm below which it has no direction.
TINY = 1e-6
#: Which tokens :func:`likeness` is measured on: a sixteenth is enough for a mean, and costs little.
EVERY = 16


def mixed(rows: Tensor | CodedRows, gates: Tensor, frame: Frame) -> Tensor:
    """Sum of a token's slots ``[U, M, H, D]`` weighed by ``gates`` ``[N, H, M]``: ``[N, H, D]``."""
    if isinstance(rows, CodedRows):
        return rows.to(gates.device).mixed(gates, frame.addresses().on(gates.device))
    return mix_slots(gates, rows.to(gates.device), frame.addresses().on(gates.device))


def kinship(rows: Tensor, frame: Frame) -> Tensor:
    """Inner products of slots, ``[n, H, M, M]`` for every :data:`EVERY`-th of the N tokens, of rows ``[U, M, H, D]``.

    All layers share it: what is left of :func:`likeness` to each of them does not depend on the width D.
    """
    few = frame.addresses().on(rows.device).inverse[::EVERY]
    with torch.autocast(rows.device.type, enabled=False):
        # As an embedding, whose gradient adds up in one order on a GPU too.
        read = F.embedding(few, rows.flatten(1)).view(-1, *rows.shape[1:]).float().transpose(1, 2)
        return read @ read.transpose(2, 3)


def likeness(kin: Tensor, gates: Tensor, frame: Frame) -> Tensor:
    """How alike a layer's slots are: the mean cosine between two gated rows at a token; a scalar.

    1 where all slots add the same direction, 0 where they are unrelated, at least -1/(M-1). Mean over every
    :data:`EVERY`-th token, padding left out.

    Args:
        kin: :func:`kinship` of this forward's rows, with M of 2 or more.
        gates: ``[N, H, M]`` of the slots alone.
        frame: the forward's mask.
    """
    with torch.autocast(gates.device.type, enabled=False):
        few = gates[::EVERY].float()
        gram = (few.unsqueeze(-1) * few.unsqueeze(-2) * kin).sum(1)
        # Added to, not clamped: rows of zeros, as all are at the start, then have a gradient (of zero).
        unit = (gram.diagonal(dim1=1, dim2=2) + TINY).rsqrt()
        cosine = unit.unsqueeze(1) * gram * unit.unsqueeze(2)
    slots = gates.shape[-1]
    pairs = (cosine.sum((1, 2)) - cosine.diagonal(dim1=1, dim2=2).sum(-1)) / (slots * (slots - 1))
    if frame.mask is None:
        return pairs.mean()
    real = frame.mask.to(pairs)[::EVERY]
    return (pairs * real).sum() / real.sum().clamp_min(1.0)


class SharedMix(ValuePart):
    """``v' = g_0 v + scale * sum_m g_m E[id, m]`` over a bank that all layers share (MoVE).

    ``selectivity`` is the weight of :func:`likeness` as an auxiliary loss.
    """

    def __init__(self, gates: Gates, slots: int, dim: int, scale: float, selectivity: float = 0.0) -> None:
        super().__init__()
        self.slots, self.dim, self.scale, self.selectivity = slots, dim, scale, selectivity
        self.gate = gates

    def prepare(self, frame: Frame) -> None:
        if frame.training and self.selectivity and not frame.muted and self._kin_key not in frame.shared:
            frame.shared[self._kin_key] = kinship(frame.shared[self.kind_key], frame)

    @property
    def _kin_key(self) -> str:
        return f"{self.kind_key}.kinship"

    def forward(self, value: Tensor, hidden: Tensor, frame: Frame) -> Tensor:
        if frame.muted:
            return value
        gate = self.gate
        if frame.few and not (gate._forward_hooks or gate._forward_pre_hooks):  # someone may be listening to the gates
            rows, places = frame.shared[self.kind_key], frame.addresses().inverse
            done = decode.step(hidden, value, gate.weight, rows, places, scale=self.scale, bias=gate.bias)
            if done is not None:
                return done
        gates: Tensor = self.gate(hidden).flatten(0, -3)
        if frame.recording:
            frame.report(self.key, per_token={"gates": gates})
        if frame.training and self.selectivity:
            frame.losses[f"{self.key}.selectivity"] = self.selectivity * likeness(
                frame.shared[self._kin_key].to(gates.device), gates[..., 1:], frame
            )
        return self._blended(value.flatten(0, -3), gates, frame).view_as(value)

    def _blended(self, value: Tensor, gates: Tensor, frame: Frame) -> Tensor:
        rows = frame.shared[self.kind_key]
        if isinstance(rows, CodedRows):
            return gates[..., :1] * value + mixed(rows, self.scale * gates[..., 1:], frame).to(value.dtype)
        return blend(value, gates, rows.to(value.device), frame.addresses().on(value.device), self.scale)

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

    def prepare(self, frame: Frame) -> None:
        # Before the layers, as a shared bank is: a compiled graph is then broken once, if rows come from a store.
        if not frame.muted:
            frame.shared[self.key] = self.bank.read(frame)

    def forward(self, value: Tensor, hidden: Tensor, frame: Frame) -> Tensor:
        if frame.muted:
            return value
        gates: Tensor = self.gate(hidden).flatten(0, -3)
        if frame.recording:
            frame.report(self.key, per_token={"gates": torch.cat([torch.ones_like(gates), gates], dim=-1)})
        update = mixed(frame.shared[self.key], gates, frame)
        return value + update.view_as(value).to(value.dtype)

    def cost(self) -> Cost:
        flops = 2 * self.bank.slots * self.bank.heads * self.bank.dim
        return self.bank.cost() + self.gate.cost() + Cost(flops_per_token=flops)
