"""Loops of the CPU path, compiled by Numba when they are first called (and kept on disk for the next process)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from vademecum.ops.mix.kernels import Index, Wide

#: Values above a bound that are few enough to be sorted, over those that are wanted.
SPARE = 6
#: Halvings of the range in which the bound is looked for; equal values need many.
HALVINGS = 16
_OPTIONS: Any = {"cache": True, "nogil": True, "error_model": "numpy"}
# Vectors of values are compared and counted at once; where NaN has been ruled out, they are also reduced at once.
_COUNTING: Any = {**_OPTIONS, "fastmath": {"reassoc", "nsz"}}
_REDUCING: Any = {**_OPTIONS, "fastmath": {"reassoc", "nsz", "nnan"}}


def _reaching(values: Wide, bound: Any) -> Any:
    """How many values reach ``bound``."""
    total: Any = np.float32(0.0)
    for j in range(len(values)):
        total += np.float32(1.0) if values[j] >= bound else np.float32(0.0)
    return total


def _ends(values: Wide) -> tuple[Any, Any]:
    """The least and the largest."""
    low: Any = values[0]
    high: Any = values[0]
    for j in range(len(values)):
        low, high = min(low, values[j]), max(high, values[j])
    return low, high


def _largest(values: Wide, best: Wide, at: Index) -> bool:
    """The ``len(best)`` largest of ``values``, in falling order, equal ones by their place; False where one is NaN."""
    k, count = len(best), len(values)
    # NaN reaches nothing, not even the least of all numbers.
    if _reaching(values, np.float32(-np.inf)) < count:
        return False
    low, high = _ends(values)
    reaching: Any = np.float32(count)
    for _ in range(HALVINGS):
        if reaching <= k + SPARE:
            break
        middle = np.float32(0.5) * low + np.float32(0.5) * high
        there = _reaching(values, middle)
        if there >= k:
            low, reaching = middle, there
        else:
            high = middle
    held = 0
    for j in range(count):
        value = values[j]
        if value >= low:
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
    """Fill ``scores`` and ``slots`` ``[N, H, k]`` from token ``first`` on; ``halves`` is ``[2H, T, n]``.

    Chunks of tokens.
    """
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


_reaching = njit(**_COUNTING)(_reaching)
_ends = njit(**_REDUCING)(_ends)
_insert = njit(**_OPTIONS)(_insert)
_largest = njit(**_OPTIONS)(_largest)
select: Any = njit(**_OPTIONS)(_select)
