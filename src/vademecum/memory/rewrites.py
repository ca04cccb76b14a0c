"""Differences over rows of a bank: put there and taken off again in any order, to the last bit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from vademecum.memory.bank import Bank


class Rewrites:
    """What is laid over a bank's rows, which remembers how they were.

    A row is always what it was, plus all that lies over it in the order of their labels: who came first does not show,
    and with the last one gone its old bits are put back. A row that is anything else was trained, loaded or written by
    someone else since; it is left alone.

    Attributes:
        laid: by label, ids ``[K]`` (distinct, ascending), differences ``[K, *row_shape]`` and whose they are.
    """

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self.laid: dict[str, tuple[Tensor, Tensor, Any]] = {}
        self._were: dict[int, Tensor] = {}
        # Rows that a writing which did not end may have left in pieces: what lies there is nobody's.
        self._open: set[int] = set()

    @classmethod
    def on(cls, bank: Bank) -> Rewrites:
        """What lies over ``bank``, which may be nothing."""
        if bank.rewrites is None:
            bank.rewrites = cls(bank)
        found: Rewrites = bank.rewrites
        return found

    def were(self, ids: Tensor) -> Tensor:
        """Rows ``[K, *row_shape]`` as they are below all that lies over them."""
        rows, covered = self._now(ids), self._covered()
        for place, number in enumerate(ids.tolist()):
            if number in covered:
                rows[place] = self._were[number]
        return rows

    def put(self, label: str, ids: Tensor, differences: Tensor, whose: Any) -> None:
        """Lay ``differences`` over the rows ``ids``.

        Raises:
            ValueError: ``label`` lies there already, or the bank is being trained, can only be read, or was changed
                where something lies over it; nothing is changed then.
        """
        self.require_free()
        if label in self.laid:
            raise ValueError(f"differences called {label!r} lie over this bank already; drop them first.")
        ids = ids.cpu()
        self._require_as_laid(ids)
        covered = self._covered()
        for number, row in zip(ids.tolist(), self.were(ids), strict=True):
            if number not in covered:
                self._were[number] = row.clone()
        try:
            self.laid[label] = (ids, differences.cpu().float(), whose)
            self._write(ids, self.laid)
        except BaseException:
            self._take_off(label)
            raise

    def require_free(self) -> None:
        """Raise ValueError where the bank is being trained, or its rows can only be read."""
        if self._bank.ledger is not None:
            raise ValueError("the bank is being trained by a row optimizer; call its release() before rows are edited.")
        refusal = self._bank.table().refusal
        if refusal:
            raise ValueError(f"rows of this bank cannot be edited: {refusal}")

    def require_as_laid(self, label: str) -> None:
        """Raise ValueError where :meth:`drop` would throw away what the bank has learned since."""
        if label in self.laid:
            self._require_as_laid(self.laid[label][0])

    def drop(self, label: str) -> None:
        """Take off what was put with ``label``; nothing happens where it is off, and what fails can be said again.

        Raises:
            ValueError: one of its rows is not what was laid there; nothing is changed then.
        """
        self.require_as_laid(label)
        self._take_off(label)

    def _take_off(self, label: str) -> None:
        if label in self.laid:
            # First written, then forgotten: as long as rows may be left, it is known whose they are.
            self._write(self.laid[label][0], self.laid.keys() - {label})
            del self.laid[label]
        for number in self._were.keys() - self._covered():
            del self._were[number]

    def _covered(self) -> set[int]:
        """Numbers of the rows that something lies over."""
        return {number for ids, _, _ in self.laid.values() for number in ids.tolist()}

    def _require_as_laid(self, ids: Tensor) -> None:
        sure = self._covered() - self._open
        ids = ids[torch.tensor([number in sure for number in ids.tolist()], dtype=torch.bool)]
        if not len(ids):
            return
        now = self._now(ids)
        moved = ~_same_bits(now, self._over(ids, self.laid).to(now.dtype))
        if bool(moved.any()):
            raise ValueError(
                f"bank row {int(ids[moved][0])} is not what the edit laid there: it was trained or loaded since, "
                f"and nothing of that would be left. To keep it, edit and all, vm.save the memory, vm.detach the model "
                f"and vm.load what was saved; to give it up, load an older save in the same way."
            )

    def _now(self, ids: Tensor) -> Tensor:
        table = self._bank.table()
        return table.gather(ids if table.place == "device" else ids.cpu()).cpu().clone()

    def _over(self, ids: Tensor, labels: Collection[str]) -> Tensor:
        """Rows ``[K, *row_shape]``, all of them known as they were, with what ``labels`` laid over them.

        Each is rounded to the number type that it had, even if the bank has another now: with nothing over it, it is
        what it was, to the last bit.
        """
        were = [self._were[number] for number in ids.tolist()]
        wide = torch.float64 if any(row.dtype == torch.float64 for row in were) else torch.float32
        rows = torch.stack([row.to(wide) for row in were])
        for label in sorted(labels):
            own, differences, _ = self.laid[label]
            here = torch.isin(ids, own)
            rows[here] += differences[torch.searchsorted(own, ids[here])]
        return torch.stack([row.to(was.dtype).to(wide) for row, was in zip(rows, were, strict=True)])

    def _write(self, ids: Tensor, labels: Collection[str]) -> None:
        table, rows = self._bank.table(), self._over(ids, labels)
        self._open.update(ids.tolist())
        table.write(ids, rows.to(table.dtype))
        self._open.difference_update(ids.tolist())


def _same_bits(a: Tensor, b: Tensor) -> Tensor:
    """``[K]`` whether rows of ``a`` and ``b``, ``[K, ...]``, are the same to the last bit."""
    return (a.contiguous().view(torch.uint8) == b.contiguous().view(torch.uint8)).flatten(1).all(1)
