"""Loops of the CPU path, compiled by Numba when they are first called (and kept on disk for the next process).

Shapes: N tokens, K places each, U rows, D their width. A call does one chunk of the work, tokens or rows, and chunks
own what they write, so the result does not depend on who runs which. bf16 arrays come as uint16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from vademecum.ops.mix.kernels import Array, Index, Wide, _expect, _put, _wide

#: How many places ahead a row is asked for.
AHEAD = 8
#: Widths that have loops of their own; all others share loops that are told the width when they run.
WIDTHS = (64, 128, 256, 512)
_OPTIONS: Any = {"cache": True, "fastmath": {"reassoc", "contract", "nsz"}, "nogil": True, "error_model": "numpy"}


@dataclass(frozen=True)
class Loops:
    """The compiled loops for one width; the last argument of each is where its chunk begins and ends."""

    summed: Callable[..., None]
    dotted: Callable[..., None]
    scattered: Callable[..., None]


def loops(width: int) -> Loops:
    """The loops for rows ``width`` wide."""
    return _made(width if width in WIDTHS else 0)


def even_bounds(count: int, chunks: int) -> Index:
    """``[chunks + 1]`` where each chunk of ``count`` items begins and ends."""
    return np.arange(chunks + 1, dtype=np.int64) * count // chunks


def read_bounds(offsets: Index, chunks: int) -> Index:
    """``[chunks + 1]`` where each chunk of rows begins: about as many reads in each, a row itself counted as one."""
    ends = offsets[1:] + np.arange(1, len(offsets))
    total = int(ends[-1]) if len(ends) else 0
    inside = np.searchsorted(ends, np.arange(1, chunks, dtype=np.int64) * total // chunks, side="right")
    return np.concatenate([[0], inside, [len(ends)]]).astype(np.int64)


@njit(cache=True, nogil=True)
def ordered(places: Index, offsets: Index, order: Index) -> None:
    """Sort reads by their row, those of one row in their order: counted, then put in place.

    Args:
        places: ``[R]`` the row of each read.
        offsets: ``[U + 1]`` zeros, filled with where each row's reads begin in ``order``, and the end.
        order: ``[R]`` filled.
    """
    for i in range(len(places)):
        offsets[places[i] + 1] += 1
    for r in range(1, len(offsets)):
        offsets[r] += offsets[r - 1]
    free = offsets[:-1].copy()
    for i in range(len(places)):
        r = places[i]
        order[free[r]] = i
        free[r] += 1


@cache
def _made(known: int) -> Loops:
    # The compiled code on disk is told apart by what a loop closes over, hence by the width.

    def summed(rows: Array, places: Index, weights: Array, out: Array, at: Index) -> None:
        """Fill ``out`` ``[N, D]`` with the weighted sums of rows; chunks of tokens."""
        count = places.shape[1]
        width = known if known else rows.shape[1]
        flat = places.reshape(-1)
        whole = count - count % 4
        total = np.empty(width, np.float32)
        for n in range(at[0], at[1]):
            total[:] = 0.0
            for k in range(0, whole, 4):
                for j in range(n * count + k + AHEAD, min(n * count + k + AHEAD + 4, len(flat))):
                    _expect(rows, flat[j])
                a, b = _wide(weights[n, k]), _wide(weights[n, k + 1])
                c, e = _wide(weights[n, k + 2]), _wide(weights[n, k + 3])
                ra, rb = rows[places[n, k]], rows[places[n, k + 1]]
                rc, re = rows[places[n, k + 2]], rows[places[n, k + 3]]
                for d in range(width):
                    total[d] += (a * _wide(ra[d]) + b * _wide(rb[d])) + (c * _wide(rc[d]) + e * _wide(re[d]))
            for k in range(whole, count):
                a, ra = _wide(weights[n, k]), rows[places[n, k]]
                for d in range(width):
                    total[d] += a * _wide(ra[d])
            for d in range(width):
                _put(out[n], d, total[d])

    def dotted(rows: Array, places: Index, x: Array, out: Array, at: Index) -> None:
        """Fill ``out`` ``[N, K]`` with dot products of rows and ``x`` ``[N, D]``; chunks of tokens."""
        count = places.shape[1]
        width = known if known else rows.shape[1]
        flat = places.reshape(-1)
        y = np.empty(width, np.float32)
        for n in range(at[0], at[1]):
            for d in range(width):
                y[d] = _wide(x[n, d])
            for k in range(count):
                ahead = n * count + k + AHEAD
                if ahead < len(flat):
                    _expect(rows, flat[ahead])
                ra, a = rows[places[n, k]], np.float32(0.0)
                for d in range(width):
                    a += y[d] * _wide(ra[d])
                _put(out[n], k, a)

    def scattered(weights: Array, x: Array, order: Index, offsets: Index, into: Wide, at: Index) -> None:
        """Fill ``into`` ``[U, D]`` with each row's sum of ``weights * x`` over the reads of it; chunks of rows."""
        count = weights.shape[1]
        width = known if known else x.shape[1]
        for r in range(at[0], at[1]):
            t = into[r]
            t[:] = 0.0
            for i in range(offsets[r], offsets[r + 1]):
                if i + AHEAD < len(order):
                    _expect(x, order[i + AHEAD] // count)
                n = order[i] // count
                a, xa = _wide(weights[n, order[i] - n * count]), x[n]
                for d in range(width):
                    t[d] += a * _wide(xa[d])

    compiled = njit(**_OPTIONS)
    return Loops(compiled(summed), compiled(dotted), compiled(scattered))
