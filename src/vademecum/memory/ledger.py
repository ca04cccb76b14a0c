"""What was read of a bank, and the gradients that came back: rows are the leaves, not the table."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class Ledger:
    """Gradients of the rows that were read since they were last cleared.

    A forward's distinct rows are one leaf of autograd. Its gradient is entered when backward has made it, so a forward
    without a backward leaves nothing behind, and many forwards (accumulation, checkpointing) add up.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Tensor, Tensor]] = []
        self._mean: tuple[tuple[Tensor, Tensor] | None] | None = None

    def lend(self, ids: Tensor, rows: Tensor) -> Tensor:
        """``rows`` ``[U, ...]`` of ``ids`` ``[U]`` as a leaf, in fp32 so that small gradients of many layers add up."""
        leaf = rows.detach().float().requires_grad_()

        def enter(done: Tensor) -> None:
            if done.grad is not None:
                self._entries.append((ids, done.grad))
                self._mean = None
                done.grad = None

        leaf.register_post_accumulate_grad_hook(enter)  # type: ignore[no-untyped-call]
        return leaf

    def merge(self) -> tuple[Tensor, Tensor] | None:
        """``(ids, gradients)`` ``[U]`` and ``[U, ...]`` of all rows read, distinct and ascending; None for none.

        Several processes get the mean of theirs, the same in each. The gradients stay until they are cleared, and are
        not to be changed.
        """
        if len(self._entries) > 1:
            self._entries = [_summed(self._entries)]
        mine = self._entries[0] if self._entries else None
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return mine
        if self._mean is None:
            self._mean = _mean(mine)
        return self._mean[0]

    def clear(self) -> None:
        """Forget the gradients."""
        self._entries.clear()
        self._mean = None

    def __deepcopy__(self, memo: object) -> None:
        """A copy of a bank belongs to no optimizer."""
        return


def _mean(mine: tuple[Tensor, Tensor] | None) -> tuple[tuple[Tensor, Tensor] | None]:
    """The mean over processes of what each has, in a tuple; collective."""
    gathered: list[tuple[Tensor, Tensor] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, None if mine is None else tuple(one.cpu() for one in mine))
    entries = [entry for entry in gathered if entry is not None]
    if not entries:
        return (None,)
    ids, grads = _summed(entries)
    device = None if mine is None else mine[1].device
    return ((ids.to(device), grads.div_(len(gathered)).to(device)),)


def _summed(entries: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Entries added in their order, whatever ids they share: the same bits every time."""
    ids, inverse = torch.unique(torch.cat([ids for ids, _ in entries]), return_inverse=True)
    total = entries[0][1].new_zeros(len(ids), *entries[0][1].shape[1:])
    start = 0
    for own, grads in entries:
        # Within an entry ids are distinct, so this adds each row once and in no particular order.
        at = inverse[start : start + len(own)]
        total[at] = total[at] + grads
        start += len(own)
    return ids, total
