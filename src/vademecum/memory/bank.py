"""Rows that are looked up, not computed."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from vademecum.lookup import Frame
from vademecum.memory.base import Cost, Role, Shared


class Bank(Shared):
    """A table with M slots of H x D values for every token id.

    Only the distinct ids of a forward are read. The rows come out in the dtype of the running autocast, cast once
    for all layers that share them.

    Attributes:
        weight: ``[rows, M, H*D]``, role ``bank``.
        lr_scale: the optimizer's step relative to a single slot's. All slots of a token receive nearly the same
            gradient while their gates are near 1, so a step of size lr moves the value by about M*lr; dividing by M
            keeps the effective step independent of the number of slots.
    """

    role: ClassVar[Role] = Role.BANK

    def __init__(
        self, rows: int, slots: int, heads: int, dim: int, *, std: float, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.slots, self.heads, self.dim = slots, heads, dim
        self.lr_scale = 1.0 / slots
        weight = torch.empty(rows, slots, heads * dim, dtype=dtype, device=device)
        nn.init.normal_(weight, std=std) if std else nn.init.zeros_(weight)
        self.weight = nn.Parameter(weight)

    def read(self, frame: Frame) -> Tensor:
        """Rows ``[U, M, H, D]`` of the forward's distinct ids.

        Raises:
            ValueError: an id below 0 or past the last row (inside a compiled graph the index itself fails).
        """
        lookup = frame.addresses()
        lookup.require_within(len(self.weight))
        rows = self.weight[lookup.unique.to(self.weight.device)].view(-1, self.slots, self.heads, self.dim)
        if torch.is_autocast_enabled(rows.device.type):
            rows = rows.to(torch.get_autocast_dtype(rows.device.type))
        return rows

    def cost(self) -> Cost:
        """All rows are parameters; one row is read for a token."""
        row = self.weight[0].numel()
        return Cost(params=self.weight.numel(), active_params=row, bytes_per_token=row * self.weight.element_size())

    def extra_repr(self) -> str:
        rows = self.weight.shape[0]
        return f"rows={rows}, slots={self.slots}, heads={self.heads}, dim={self.dim}, {self.weight.dtype}"
