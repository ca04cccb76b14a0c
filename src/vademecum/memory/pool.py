"""Rows that tokens find by their hidden state: a bank that layers read themselves."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vademecum.lookup import Frame, Lookup
from vademecum.memory.bank import Bank, CodedRows
from vademecum.memory.base import Cost
from vademecum.stores.base import Store


class Pool(Bank):
    """A table of M vectors a row, one for all its layers; which rows are read each layer finds out when it runs.

    Attributes:
        reads: rows that a token reads in all layers together, counted as often as they are read.
        stds: standard deviations of a row's M vectors at the start.
    """

    def __init__(
        self,
        rows: int,
        width: int,
        *,
        stds: tuple[float, ...],
        reads: int,
        lr_scale: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(rows, len(stds), 1, width, std=max(stds), dtype=dtype, device=device)
        self.stds, self.reads, self.lr_scale = stds, reads, lr_scale

    def read(self, frame: Frame) -> Pool:
        """Itself: what a forward reads of it is not known before its layers run."""
        return self

    def rows_at(self, slots: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        """Rows of ``slots``, int64 of any shape: ``[U, M, D]`` on their device, and the places ``[slots.numel()]``.

        Raises:
            ValueError: a slot below 0 or past the last row.
        """
        lookup = self.addressed(slots)
        rows = self.at(lookup, frame)
        if isinstance(rows, CodedRows):
            rows = rows.decoded()
        return rows.to(slots.device).view(-1, self.slots, self.dim), lookup.inverse

    def addressed(self, addresses: Tensor) -> Lookup:
        # Slots differ from token to token, so where the table itself can be read nothing is gained by a copy of rows.
        if self.resident and self.weight is not None and self.weight.device == addresses.device:
            return Lookup.of_table(addresses)
        return super().addressed(addresses)

    def cost(self) -> Cost:
        """All rows are parameters; a token reads ``reads`` of them."""
        read = min(self.reads, self.rows)
        return Cost(
            params=self.rows * self.slots * self.dim,
            active_params=read * self.slots * self.dim,
            bytes_per_token=read * (self.nbytes // max(1, self.rows)),
        )

    def _start(self, table: Store) -> Iterator[Tensor]:
        stds = torch.tensor(self.stds).unsqueeze(-1)
        for piece in table.slices():
            drawn = torch.empty(piece.stop - piece.start, *self.row_shape).normal_()
            yield (drawn * stds).to(self.dtype)
