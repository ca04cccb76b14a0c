"""Differences over rows of a bank: put there and taken off again in any order, to the last bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vademecum.memory.bank import Bank


class Rewrites:
    """What is laid over a bank's rows, which remembers how they were.

    A row is always what it was, plus all that lies over it in the order of their labels: who came first does not show,
    and with the last one gone its old bits are put back.

    Attributes:
        laid: by label, ids ``[K]`` (distinct, ascending), differences ``[K, *row_shape]`` and whose they are.
    """

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self.laid: dict[str, tuple[Tensor, Tensor, Any]] = {}
        self._were: dict[int, Tensor] = {}

    @classmethod
    def on(cls, bank: Bank) -> Rewrites:
        """What lies over ``bank``, which may be nothing."""
        if bank.rewrites is None:
            bank.rewrites = cls(bank)
        found: Rewrites = bank.rewrites
        return found

    def were(self, ids: Tensor) -> Tensor:
        """Rows ``[K, *row_shape]`` as they are below all that lies over them."""
        table = self._bank.table()
        rows = table.gather(ids if table.place == "device" else ids.cpu()).cpu().clone()
        for place, number in enumerate(ids.tolist()):
            if number in self._were:
                rows[place] = self._were[number]
        return rows

    def put(self, label: str, ids: Tensor, differences: Tensor, whose: Any) -> None:
        """Lay ``differences`` over the rows ``ids``.

        Raises:
            ValueError: the bank is being trained, or can only be read; nothing is changed then.
        """
        self.require_free()
        for number, row in zip(ids.tolist(), self.were(ids), strict=True):
            self._were.setdefault(number, row.clone())
        self.laid[label] = (ids.cpu(), differences.cpu().float(), whose)
        try:
            self._write(ids)
        except BaseException:
            self.drop(label)
            raise

    def require_free(self) -> None:
        """Raise ValueError where the bank is being trained, or its rows can only be read."""
        if self._bank.ledger is not None:
            raise ValueError("the bank is being trained by a row optimizer; call its release() before rows are edited.")
        refusal = self._bank.table().refusal
        if refusal:
            raise ValueError(f"rows of this bank cannot be edited: {refusal}")

    def drop(self, label: str) -> None:
        """Take off what was put with ``label``; nothing happens where it is off."""
        if label not in self.laid:
            return
        ids, _, _ = self.laid.pop(label)
        self._write(ids)
        free = set(ids.tolist()) - {number for other, _, _ in self.laid.values() for number in other.tolist()}
        for number in free:
            self._were.pop(number, None)

    def _write(self, ids: Tensor) -> None:
        rows = self.were(ids).to(torch.float32)
        for label in sorted(self.laid):
            own, differences, _ = self.laid[label]
            here = torch.isin(ids.cpu(), own)
            rows[here] += differences[torch.searchsorted(own, ids.cpu()[here])]
        table = self._bank.table()
        table.write(ids if table.place == "device" else ids.cpu(), rows.to(table.dtype))
