"""Rows of hashed n-grams, gated by what was read so far, added to the residual stream."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vademecum.lookup import Frame
from vademecum.memory.bank import Bank, rows_at
from vademecum.memory.base import Cost, ResidualPart, Role, dense_cost
from vademecum.memory.hashing import Hashes
from vademecum.memory.tables import normalised

#: Below this the signed root of a score is taken as if it were this.
LEAST = 1e-6


class Projections(nn.Module):
    """Keys and values of what was looked up.

    Attributes:
        key, value: ``[d, width]``; role ``router``.
    """

    role: ClassVar[Role] = Role.ROUTER

    def __init__(self, hidden: int, width: int, *, std: float, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.key, self.value = (
            nn.Parameter(nn.init.normal_(torch.empty(hidden, width, dtype=dtype, device=device), std=std))
            for _ in range(2)
        )


class Convolution(nn.Module):
    """A causal convolution of each channel with itself: ``y_t = sum_j w_j x_{t - j * apart}``; all zero at the start.

    Attributes:
        weight: ``[kernel, d]``; role ``router``.
        apart: tokens between two that it reads.
    """

    role: ClassVar[Role] = Role.ROUTER

    def __init__(self, width: int, kernel: int, apart: int, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.apart = apart
        self.weight = nn.Parameter(torch.zeros(kernel, width, dtype=dtype, device=device))

    @property
    def reach(self) -> int:
        """How many steps back it reads."""
        return (len(self.weight) - 1) * self.apart

    def forward(self, steps: Tensor, tokens: int) -> Tensor:
        """``[B, tokens, d]`` for the last ``tokens`` of ``steps`` ``[B, n + tokens, d]``; nothing comes before them."""
        steps = F.pad(steps, (0, 0, max(0, self.reach + tokens - steps.shape[1]), 0))
        ends = [steps.shape[1] - back * self.apart for back in range(len(self.weight))]
        weight = self.weight.to(steps.dtype)
        return torch.stack([weight[j] * steps[:, end - tokens : end] for j, end in enumerate(ends)]).sum(0)


class NGramMemory(ResidualPart):
    """``h' = h + u + SiLU(conv(norm(u)))``, ``u = a W_V e``, ``a = sigmoid(f(<norm(W_K e), norm(h)> / sqrt(d)))``.

    e are the token's rows side by side; f is the signed square root, or nothing.
    """

    def __init__(
        self,
        hashes: Hashes,
        bank: Bank,
        projections: Projections,
        convolution: Convolution | None,
        norms: nn.ModuleDict,
        *,
        signed_root: bool,
    ) -> None:
        """Put together; ``norms`` are the learned scales ``key``, ``query`` and, beside a convolution, ``steps``."""
        super().__init__()
        self.hashes, self.bank, self.projections = hashes, bank, projections
        self.convolution, self.norms, self.signed_root = convolution, norms, signed_root
        self.looks_back = hashes.orders - 1
        self.carries = 0 if convolution is None else convolution.reach

    def prepare(self, frame: Frame) -> None:
        if not frame.muted:
            frame.addresses().require_within(len(self.hashes.ids) - 1)
            addresses = self.hashes(frame.known(self.looks_back), frame.addresses().ids.shape[1])
            lookup = self.bank.addressed(addresses)
            frame.shared[self.key] = (self.bank.at(lookup, frame), lookup)

    def forward(self, hidden: Tensor, frame: Frame) -> Tensor:
        if frame.muted:
            silence = torch.zeros_like(hidden)
            if self.convolution is not None:  # later forwards ask for the steps of this one, silent as they are
                frame.carry(self.key, silence, self.carries)
            return silence
        rows, lookup = frame.shared[self.key]
        rows = rows.to(hidden.device)
        read = rows_at(rows, lookup.on(hidden.device)).reshape(*hidden.shape[:-1], -1)
        read = read.to(self.projections.value.dtype)
        gate = self._gate(F.linear(read, self.projections.key), hidden)
        said = gate * F.linear(read, self.projections.value)
        if frame.mask is not None:  # what stands at padding is not read by the tokens after it
            said = said * frame.mask.view(*said.shape[:-1], 1).to(said)
        if frame.recording:
            frame.report(self.key, per_token={"gates": _beside_ones(gate)})
        if self.convolution is not None:
            steps = frame.carry(self.key, self.norms["steps"](normalised(said)), self.carries)
            said = said + F.silu(self.convolution(steps, said.shape[1]))
        return said.to(hidden.dtype)

    def _gate(self, key: Tensor, hidden: Tensor) -> Tensor:
        """``[B, T, 1]``, in (0, 1)."""
        score: Tensor
        query = self.norms["query"](normalised(hidden))
        score = (self.norms["key"](normalised(key)) * query).sum(-1, keepdim=True) / math.sqrt(hidden.shape[-1])
        if self.signed_root:
            score = score.sign() * score.abs().clamp_min(LEAST).sqrt()
        return torch.sigmoid(score)

    def cost(self) -> Cost:
        rows = len(self.hashes.primes)
        flops = 2 * (self.projections.key.numel() + self.projections.value.numel())
        one = self.bank.cost()
        read = Cost(
            params=one.params, active_params=rows * one.active_params, bytes_per_token=rows * one.bytes_per_token
        )
        total = read + dense_cost(self.projections, flops) + dense_cost(self.norms)
        return total if self.convolution is None else total + dense_cost(self.convolution)


def _beside_ones(gate: Tensor) -> Tensor:
    """Gates ``[N, 1, 2]``, the host's own share first, which is always whole."""
    return torch.stack([torch.ones_like(gate), gate], -1).flatten(0, -3)
