"""Loops of the CPU path, compiled by Numba when first called: rows added into rows named by an index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float32]
Index = NDArray[np.int64]

# One thread: rows are added in one order, and the loop is bound by memory, not by arithmetic.
_compiled: Any = njit(cache=True, nogil=True)


@_compiled  # type: ignore[untyped-decorator]
def add_rows(out: Array, index: Index, rows: Array) -> None:
    """``out[index[i]] += rows[i]`` for every row of ``rows`` ``[n, d]``."""
    for i in range(rows.shape[0]):
        at = index[i]
        for j in range(rows.shape[1]):
            out[at, j] += rows[i, j]


@_compiled  # type: ignore[untyped-decorator]
def add_weighed_rows(out: Array, index: Index, rows: Array, weights: Array) -> None:
    """``out[index[i]] += weights[i] * rows[i]`` for every row of ``rows`` ``[n, d]``."""
    for i in range(rows.shape[0]):
        at, weight = index[i], weights[i]
        for j in range(rows.shape[1]):
            out[at, j] += weight * rows[i, j]
