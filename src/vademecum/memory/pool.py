"""Rows that tokens find by their hidden state: a bank that layers read themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vademecum.lookup import Frame, Lookup
from vademecum.memory.bank import Bank, CodedRows
from vademecum.memory.base import Cost
from vademecum.memory.ledger import Ledger
from vademecum.ops import specified
from vademecum.ops.weighted import Lent
from vademecum.stores.base import Store


class Found(NamedTuple):
    """Rows that a forward reads.

    Attributes:
        rows: ``[U, M, D]``, of the forward or of the whole table.
        places: ``[N, K]`` which of them each read is.
        lent: where their gradient goes, if not to them.
    """

    rows: Tensor
    places: Tensor
    lent: Lent | None


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

    def found(self, slots: Tensor, frame: Frame) -> Found:
        """Rows of ``slots``, int64 ``[N, K]``, on their device.

        Raises:
            ValueError: a slot below 0 or past the last row.
        """
        if self.ledger is not None and torch.is_grad_enabled() and self._readable(slots):
            return self._borrowed(slots, self.ledger)
        lookup = self.addressed(slots)
        rows = self.at(lookup, frame)
        if isinstance(rows, CodedRows):
            rows = rows.decoded()
        return Found(rows.to(slots.device).view(-1, self.slots, self.dim), lookup.inverse.view_as(slots), None)

    def _readable(self, slots: Tensor) -> bool:
        """Whether the table can be read where it lies."""
        here = self.weight is not None and self.weight.device == slots.device
        return here and not (specified() or torch.compiler.is_compiling())

    def _borrowed(self, slots: Tensor, ledger: Ledger) -> Found:
        """The table itself, with a gradient for the rows that are read: a copy of them would be as large as that."""
        assert self.weight is not None
        lookup = Lookup.of(slots)
        lookup.require_within(self.rows)
        # One number stands for all values of the leaf, since nobody looks at them.
        zero = torch.zeros(1, 1, 1, device=slots.device)
        leaf = ledger.lend(lookup.unique, zero.expand(len(lookup.unique), *self.row_shape))
        table = self.weight.detach().view(-1, self.slots, self.dim)
        return Found(table, slots, Lent(leaf, lookup.inverse.view_as(slots)))

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
