"""Rows found where a projected hidden state falls among the points of a lattice, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vademecum.lookup import Frame
from vademecum.memory.base import Cost, Role, dense_cost
from vademecum.memory.pool import Found
from vademecum.memory.retrieval import Retrieval
from vademecum.ops.lattice import NEAREST, WIDTH, near
from vademecum.ops.weighted import weighted_sum

#: Mean square of a number below which its angle is noise; the weights are small there.
TINY = 1e-6


class Query(nn.Module):
    """Where on the torus each of H heads looks.

    Attributes:
        reals: numbers of the projection that a head takes.
        weight: ``[H * reals, d]``; role ``router``.
    """

    role: ClassVar[Role] = Role.ROUTER
    reals: ClassVar[int]
    periods: Tensor

    def __init__(
        self,
        hidden: int,
        heads: int,
        periods: tuple[int, ...],
        *,
        spread: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.heads, self.spread = heads, spread
        self.weight = nn.Parameter(torch.empty(heads * self.reals, hidden, dtype=dtype, device=device))
        nn.init.normal_(self.weight, std=hidden**-0.5)
        # Whole numbers, so that they stay exact when the host is moved to another type.
        self.register_buffer("periods", torch.tensor(periods, device=device), persistent=False)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Places ``[N * H, 8]`` for ``hidden`` ``[N, d]``, and a factor ``[N * H, 1]`` on what is read; fp32.

        A place in bf16 would be coarser than the lattice is fine, so all is computed in fp32 whatever the autocast.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            given = F.linear(hidden.float(), self.weight.float())
            # Over all heads, so that each still says how far out it looks.
            unit = given * (given.square().mean(-1, keepdim=True) + TINY).rsqrt()
            return self.placed(unit.view(-1, self.reals))

    def placed(self, unit: Tensor) -> tuple[Tensor, Tensor | None]:
        """Places and factor of normalised ``unit`` ``[N * H, reals]``."""
        raise NotImplementedError

    def cost(self) -> Cost:
        """One matrix product; finding points takes about 1,300 operations a head more, which are none."""
        return dense_cost(self, flops=2 * self.weight.numel())

    def extra_repr(self) -> str:
        return f"heads={self.heads}, periods={tuple(self.periods.tolist())}"


class Scaled(Query):
    """``q_i = spread K_i u_i``: the normalised projection u itself, as far round the torus as it goes."""

    reals = WIDTH

    def placed(self, unit: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.spread * self.periods * unit, None

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, spread={self.spread:g}"


class Angles(Query):
    """``q_i = K_i arg(z_i) / 2 pi`` of eight complex numbers; what is read shrinks with the smallest of them.

    The factor ``(mean of 1 / |z_i|^2) ** -1/2`` is 1 where all have length 1. It vanishes with any z_i, whose angle
    then jumps, so that what comes out never does.
    """

    reals = 2 * WIDTH

    def placed(self, unit: Tensor) -> tuple[Tensor, Tensor | None]:
        real, imaginary = unit.view(-1, WIDTH, 2).unbind(-1)
        square = real.square() + imaginary.square()
        # Next to nothing has an angle whose gradient is too large for words: it gets that of 1.
        angle = torch.atan2(imaginary, torch.where(square > TINY**2, real, torch.ones_like(real)))
        factor = (square + TINY).reciprocal().mean(-1, keepdim=True).rsqrt()
        return self.periods * angle / (2 * math.pi), factor


#: How a projection becomes a place, by name.
QUERIES: Mapping[str, type[Query]] = {"rms": Scaled, "angle": Angles}


class Heads(nn.Module):
    """``W [y_1; ...; y_H]``: what the heads read, side by side, mapped to the hidden width.

    Attributes:
        weight: ``[d, H * m]``; role ``router``.
    """

    role: ClassVar[Role] = Role.ROUTER

    def __init__(self, width: int, hidden: int, *, std: float, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden, width, dtype=dtype, device=device))
        if std:
            nn.init.normal_(self.weight, std=std)

    def forward(self, read: Tensor) -> Tensor:
        """``[N, d]`` from ``[N, H * m]``."""
        return F.linear(read, self.weight)

    def cost(self) -> Cost:
        return dense_cost(self, flops=2 * self.weight.numel())


class LatticeRetrieval(Retrieval):
    """``W [y_1; ...; y_H]``, ``y_h = c_h sum_k w_hk V[slot_hk]`` over the 32 points nearest to a head's place."""

    def __init__(self, query: Query, periods: tuple[int, ...], width: int, heads: Heads, *, replace: bool) -> None:
        super().__init__(replace=replace)
        self.periods, self.width = periods, width
        self.query, self.out = query, heads

    def chosen(self, flat: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        places, factor = self.query(flat)
        slots, weights = near(places, self.periods)
        if factor is not None:
            weights = weights * factor
        if frame.recording:
            order = weights.argsort(-1, descending=True)
            slots, weights = slots.gather(-1, order), weights.gather(-1, order)
        shape = (len(flat), self.query.heads, NEAREST)
        return weights.view(shape), slots.view(shape)

    def computed(self, flat: Tensor, found: Found, weights: Tensor) -> Tensor:
        lent = found.lent and found.lent._replace(places=found.lent.places.view(-1, NEAREST))
        places, weights = found.places.reshape(-1, NEAREST), weights.reshape(-1, NEAREST)
        read = weighted_sum(found.rows.flatten(1), places, weights, lent)
        out: Tensor = self.out(read.view(len(flat), -1).to(flat.dtype))
        return out

    def cost(self) -> Cost:
        read = Cost(flops_per_token=2 * self.query.heads * NEAREST * self.width)
        return self.query.cost() + read + self.out.cost()

    def extra_repr(self) -> str:
        return f"width={self.width}, {super().extra_repr()}"
