"""Rows of a file that are kept in memory: the least recently used ones go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

#: Bytes of bookkeeping per row that is kept: an entry of an ordered dictionary and its two integers.
ENTRY = 200


class RowCache:
    """At most ``cap`` bytes of rows, bookkeeping included.

    Attributes:
        capacity: rows that fit.
        hits: rows asked for that were here.
        misses: rows asked for that were not.
    """

    def __init__(self, cap: int, rows: int, row_shape: tuple[int, ...], dtype: torch.dtype) -> None:
        row = torch.Size(row_shape).numel() * dtype.itemsize
        self.capacity = min(rows, cap // (row + ENTRY))
        self.hits = self.misses = 0
        self._row = row
        # Pages that no row was put into take no memory yet.
        self._rows = torch.empty(self.capacity, *row_shape, dtype=dtype)
        self._at: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._at)

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return len(self._at) * (self._row + ENTRY)

    def take(self, ids: Sequence[int], out: Tensor) -> list[int]:
        """Copy the rows that are here into ``out`` ``[len(ids), ...]``; returns the positions of those that are not."""
        here, slots, missing = [], [], []
        for position, row in enumerate(ids):
            slot = self._at.get(row)
            if slot is None:
                missing.append(position)
            else:
                self._at.move_to_end(row)
                here.append(position)
                slots.append(slot)
        self.hits += len(here)
        self.misses += len(missing)
        if not missing and here:
            torch.index_select(self._rows, 0, torch.tensor(slots), out=out)
        elif here:
            out[torch.tensor(here)] = self._rows[torch.tensor(slots)]
        return missing

    def put(self, ids: Sequence[int], rows: Tensor) -> None:
        """Keep ``rows`` of ``ids`` (distinct) from now on, as many of the last ones as fit."""
        if not self.capacity:
            return
        ids, rows = ids[-self.capacity :], rows[-self.capacity :]
        slots = [self._slot(row) for row in ids]
        if slots:
            self._rows[torch.tensor(slots)] = rows

    def update(self, ids: Sequence[int], rows: Tensor) -> None:
        """Put new values into those of ``ids`` that are here."""
        here = [position for position, row in enumerate(ids) if row in self._at]
        if here:
            self._rows[torch.tensor([self._at[ids[position]] for position in here])] = rows[torch.tensor(here)]

    def missing(self, ids: Sequence[int]) -> list[int]:
        """Those of ``ids`` that are not here; counts and order stay as they are."""
        return [row for row in ids if row not in self._at]

    def _slot(self, row: int) -> int:
        slot = self._at.pop(row, None)
        if slot is None:
            slot = len(self._at) if len(self._at) < self.capacity else self._at.popitem(last=False)[1]
        self._at[row] = slot
        return slot
