"""Which rows of a bank are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vademecum.stores.base import Store
from vademecum.stores.coded import PRUNED

#: Takes what is being done and how many rows of it are done.
Progress = Callable[[str, int], None]
#: Bytes of a row's hash; no two different rows that share one are known of BLAKE2.
DIGEST = 16


class NoSuchRow(ValueError):
    """An id was to be kept that the bank does not have."""


@dataclass(frozen=True)
class Kept:
    """Which rows are stored: their numbers ``[stored]``, ascending, and for each row of the bank where it is."""

    rows: np.ndarray[Any, np.dtype[np.int64]]
    index: np.ndarray[Any, np.dtype[np.int32]] | None
    lost: int


def kept(
    name: str, table: Store, fold: bool, prune: bool, keep: Collection[int] | Tensor | None, progress: Progress | None
) -> Kept:
    """Find out which rows are to be stored; reads the table once where anything may be left out.

    Raises:
        NoSuchRow: an id of ``keep`` is none of the table's.
        ValueError: a row is NaN or infinite. Left out, it would read as zeros, and nobody would learn of it.
    """
    if not fold and not prune:
        return Kept(np.arange(table.rows), None, 0)
    stays = np.zeros(table.rows, bool) if keep is not None else np.ones(table.rows, bool)
    if keep is not None:
        # As numbers of Python: an id may be too large for a tensor.
        ids = sorted(int(one) for one in (keep.flatten().tolist() if isinstance(keep, Tensor) else keep))
        if ids and not 0 <= ids[0] <= ids[-1] < table.rows:
            raise NoSuchRow(
                f"row {ids[0] if ids[0] < 0 else ids[-1]} was to be kept, but {name} has rows 0 to {table.rows - 1}; "
                "give ids of the tokenizer that the host was trained with."
            )
        stays[ids] = True
    zero = np.zeros(table.rows, bool)
    digests = np.empty(table.rows if fold else 0, f"S{DIGEST}")
    start = 0
    for chunk in table.chunks():
        end = start + len(chunk)
        zero[start:end] = ~chunk.flatten(1).any(-1).numpy()
        finite = torch.isfinite(chunk).flatten(1).all(-1)
        if not bool(finite.all()):
            raise ValueError(
                f"{name} cannot be converted: row {start + int((~finite).nonzero()[0])} of {table.rows} holds a value "
                "that is NaN or infinite; find out where training diverged and compress an earlier save."
            )
        if fold:
            plain = chunk.contiguous().view(torch.uint8).flatten(1).numpy()
            digests[start:end] = [hashlib.blake2b(row, digest_size=DIGEST).digest() for row in plain]
        tell(progress, f"reading {name}", end)
        start = end
    if prune and keep is None:
        stays &= ~zero
    numbers = np.flatnonzero(stays)
    index = np.full(table.rows, PRUNED, np.int32)
    if not fold:
        index[numbers] = np.arange(len(numbers))
        return Kept(numbers, index, int((~stays & ~zero).sum()))
    _, first, inverse = np.unique(digests[numbers], return_index=True, return_inverse=True)
    order = np.argsort(first)  # stored in the order of the bank, so that it can be written as it is read
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    index[numbers] = place[inverse]
    return Kept(numbers[first[order]], index, int((~stays & ~zero).sum()))


def tell(progress: Progress | None, what: str, rows: int) -> None:
    """Report progress to whoever asked for it."""
    if progress is not None:
        progress(what, rows)
