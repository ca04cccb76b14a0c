"""Loops of the CPU path, compiled by Numba when they are first called (and kept on disk for the next process).

A call does one chunk of the places and allocates a few hundred bytes. Eight coordinates and 77 vectors are short enough
for the compiler to keep whole rows of them in registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from vademecum.ops.lattice.naive import LARGE as _LARGE
from vademecum.ops.lattice.offsets import NEAREST as _NEAREST
from vademecum.ops.mix.kernels import Array, Index, Wide

LARGE: float = _LARGE
NEAREST: int = _NEAREST
#: Halvings after which a cut between equal distances is no longer looked for.
HALVINGS = 64
_OPTIONS: Any = {"cache": True, "fastmath": {"reassoc", "contract", "nsz"}, "nogil": True, "error_model": "numpy"}


def _whole(x: Wide, out: Wide) -> None:
    """Fill ``out`` with the nearest whole numbers to ``x`` that have an even sum."""
    odd: Any = 0
    at, most, sign = 0, -1.0, 1.0
    for i in range(8):
        out[i] = np.rint(x[i])
        left = x[i] - out[i]
        odd += np.int64(out[i])
        if abs(left) > most:
            at, most, sign = i, abs(left), -1.0 if left < 0 else 1.0
    if odd & 1:
        out[at] += sign


def _fold(q: Wide, periods: Index, place: Wide, point: Index, order: Index, signs: Index, room: Wide) -> bool:
    """Find the nearest lattice point of ``q`` ``[8]`` and fold what is left; False where q is not finite.

    Fills ``place``, ``point``, ``order`` and ``signs`` (:class:`vademecum.ops.lattice.folded.Folded`); ``room``
    ``[3, 8]`` is to work in.
    """
    x, even, odd = room[0], room[1], room[2]
    for i in range(8):
        if not np.isfinite(q[i]):
            return False
        place[i] = q[i]
        if abs(q[i]) >= LARGE:
            place[i] = np.mod(q[i], q.dtype.type(periods[i]))
    for i in range(8):
        x[i] = place[i] / 2
    _whole(x, even)
    for i in range(8):
        x[i] = (place[i] - 1) / 2
    _whole(x, odd)
    to_even, to_odd = x[0] * 0, x[0] * 0
    for i in range(8):
        even[i], odd[i] = 2 * even[i], 2 * odd[i] + 1
        to_even += (place[i] - even[i]) ** 2
        to_odd += (place[i] - odd[i]) ** 2
    nearest = even if to_even <= to_odd else odd
    negative = 0
    for i in range(8):
        point[i] = np.int64(nearest[i])
        x[i] = place[i] - nearest[i]
    for i in range(8):
        size, j = abs(x[i]), i
        while j > 0 and place[j - 1] < size:
            place[j], order[j] = place[j - 1], order[j - 1]
            j -= 1
        place[j], order[j] = size, i
        negative += x[i] < 0
    for i in range(8):
        signs[i] = -1 if x[order[i]] < 0 else 1
    if negative & 1:
        # Only even numbers of sign changes keep the lattice: an odd one is made even at the smallest coordinate.
        signs[7], place[7] = -signs[7], -place[7]
    return True


def _cut(far: Wide, most: Any) -> tuple[Any, Any]:
    """``(low, high)``: fewer than 32 of ``far`` are at most low, 32 or more at most high, and few lie between."""
    zero, one = far.dtype.type(0), far.dtype.type(1)
    low, high = -most, far.dtype.type(8)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if middle <= low or middle >= high:
            break
        count = zero
        for j in range(len(far)):
            count += one if far[j] <= middle else zero
        if count == NEAREST:
            return middle, middle
        if count < NEAREST:
            low = middle
        else:
            high = middle
    return low, high


def _near(q: Wide, periods: Index, vectors: Wide, table: Wide, codes_of: Array, slots: Index, weights: Wide,
          codes: Array, at: Index) -> None:  # fmt: skip
    """Fill ``slots``, ``weights`` and ``codes`` ``[N, 32]`` of ``q`` ``[N, 8]``; chunks of places.

    ``vectors`` is ``[77, 8]``, ``codes_of`` the same plus 4 in uint8; ``table`` ``[9, 80]`` has a row for each
    coordinate, times -2, and one of squared lengths, infinite where there is no vector.
    """
    kind = q.dtype.type
    place, far, room = np.empty(8, q.dtype), np.empty(table.shape[1], q.dtype), np.empty((3, 8), q.dtype)
    point, order, signs = np.empty(8, np.int64), np.empty(8, np.int64), np.empty(8, np.int64)
    strides, shares, chosen = np.empty(8, np.int64), np.empty((8, 9), np.int64), np.empty(NEAREST + 1, np.int64)
    # A slot counts its parity first, then the pairs of the last coordinate, then the others from the last on.
    strides[7], stride = 2, 2 * (periods[7] // 4)
    for i in range(6, -1, -1):
        strides[i] = stride
        stride *= periods[i] // 2
    for n in range(at[0], at[1]):
        if not _fold(q[n], periods, place, point, order, signs, room):
            for k in range(NEAREST):
                slots[n, k], weights[n, k], codes[n, k] = 0, np.nan, 0
            continue
        size = kind(0)
        for j in range(table.shape[1]):
            far[j] = table[8, j]
        for i in range(8):
            a, row = place[i], table[i]
            size += a * a
            for j in range(table.shape[1]):
                far[j] += a * row[j]
        low, high = _cut(far, size + kind(1))
        held = 0
        for j in range(len(vectors)):
            # Written in any case and kept or not: whether it is near is as hard to guess as a coin's side.
            chosen[held] = j
            held += far[j] <= low
        for j in range(len(vectors)):
            if held == NEAREST:
                break
            if low < far[j] <= high:
                chosen[held] = j
                held += 1
        # What a coordinate adds to a slot, by how far the vector goes along it: -4 to 4, as codes 0 to 8.
        for i in range(8):
            o = order[i]
            period, base = periods[o], point[o]
            half = period >> 1
            if base < 0 or base >= period:
                base %= period
            for c in range(9):
                y = (base + signs[i] * (c - 4)) >> 1
                y += half if y < 0 else 0
                y -= half if y >= half else 0
                shares[i, c] = (y >> 1 if o == 7 else y) * strides[o]
        for k in range(NEAREST):
            j = chosen[k]
            code, vector = codes_of[j], vectors[j]
            away, slot = kind(0), (point[0] + code[0]) & 1
            for i in range(8):
                left = place[i] - vector[i]
                away += left * left
                slot += shares[i, code[i]]
            weight = max(kind(0), kind(1) - away / kind(8))
            weight *= weight
            slots[n, k], weights[n, k], codes[n, k] = slot, weight * weight, j


def _gradient(grad: Wide, q: Wide, codes: Array, periods: Index, vectors: Wide, out: Wide, at: Index) -> None:
    """Fill ``out`` ``[N, 8]``, the gradient of ``q``, from that of the weights ``[N, 32]``; chunks of places."""
    kind = q.dtype.type
    place, x, total, room = np.empty(8, q.dtype), np.empty(8, q.dtype), np.empty(8, q.dtype), np.empty((3, 8), q.dtype)
    point, order, signs = np.empty(8, np.int64), np.empty(8, np.int64), np.empty(8, np.int64)
    for n in range(at[0], at[1]):
        if not _fold(q[n], periods, place, point, order, signs, room):
            out[n] = np.nan
            continue
        total[:] = 0
        for k in range(NEAREST):
            vector, away = vectors[codes[n, k]], kind(0)
            for i in range(8):
                x[i] = place[i] - vector[i]
                away += x[i] * x[i]
            slope = max(kind(0), kind(1) - away / kind(8))
            slope *= slope * slope * grad[n, k]
            for i in range(8):
                total[i] -= slope * x[i]
        for i in range(8):
            out[n, order[i]] = signs[i] * total[i]


_whole = njit(**_OPTIONS)(_whole)
_fold = njit(**_OPTIONS)(_fold)
_cut = njit(**_OPTIONS)(_cut)
near: Any = njit(**_OPTIONS)(_near)
gradient: Any = njit(**_OPTIONS)(_gradient)
