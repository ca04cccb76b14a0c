"""Loops of the CPU path, compiled by Numba when they are first called (and kept on disk for the next process)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from vademecum.ops.mix.kernels import Index, Wide

#: Values that are looked at together, since most of them are below the k best so far.
BLOCK = 32
_OPTIONS: Any = {"cache": True, "nogil": True, "error_model": "numpy"}


def _largest(values: Wide, best: Wide, at: Index) -> bool:
    """The ``len(best)`` largest of ``values``, in falling order, equal ones by their place; False where one is NaN."""
    k, count = len(best), len(values)
    held = 0
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        if held == k:
            least, above = best[k - 1], 0
            for j in range(start, stop):
                above += not values[j] <= least
            if not above:
                continue
        for j in range(start, stop):
            value = values[j]
            if value != value:
                return False
            if held < k:
                held += 1
            elif not value > best[k - 1]:
                continue
            _insert(value, j, best, at, held)
    return True


def _insert(value: float, place: int, best: Wide, at: Index, held: int) -> None:
    """Put a value among the first ``held - 1`` of ``best``, behind those that are as large; what was last goes."""
    i = held - 1
    while i > 0 and best[i - 1] < value:
        best[i], at[i] = best[i - 1], at[i - 1]
        i -= 1
    best[i], at[i] = value, place


def _select(halves: Wide, first: int, scores: Wide, slots: Index, at: Index) -> None:
    """Fill ``scores`` and ``slots`` ``[N, H, k]`` from token ``first`` on out of ``halves`` ``[2H, T, n]``."""
    count, k = halves.shape[2], scores.shape[2]
    few = min(k, count)
    a, b = np.empty(few, np.float32), np.empty(few, np.float32)
    of_a, of_b = np.empty(few, np.int64), np.empty(few, np.int64)
    for t in range(at[0], at[1]):
        for h in range(scores.shape[1]):
            best, found = scores[first + t, h], slots[first + t, h]
            whole = _largest(halves[2 * h, t], a, of_a) and _largest(halves[2 * h + 1, t], b, of_b)
            if not whole:
                for i in range(k):
                    best[i], found[i] = np.nan, i
                continue
            held = 0
            for i in range(few):
                # (i + 1) * (j + 1) sums are at least as large as that of ranks i and j.
                for j in range(min(few, k // (i + 1))):
                    value = a[i] + b[j]
                    if held < k:
                        held += 1
                    elif not value > best[k - 1]:
                        break
                    _insert(value, of_a[i] * count + of_b[j], best, found, held)


_insert = njit(**_OPTIONS)(_insert)
_largest = njit(**_OPTIONS)(_largest)
select: Any = njit(**_OPTIONS)(_select)
