"""Loops of the CPU path, compiled by Numba when they are first called (and kept on disk for the next process).

Each is made for one number of bits and one length of a block, so that the compiler can lay both out flat. Shapes: N
tokens, H heads, M slots, D width of a head, W = H * D, R rows, S segments. Segment s holds the tokens
``order[offsets[s]:offsets[s + 1]]``, which all read row ``places[s]``; it may be empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray

from vademecum.ops.mix.kernels import AHEAD, WIDTHS, _expect

Bytes = NDArray[np.uint8]
Wide = NDArray[np.float32]
Index = NDArray[np.int64]

_TINY = np.float32(2.0**-133)  # the least step: the smallest number that bf16 holds
# Sums may be reordered into vector lanes, but a scale that is not finite must come through.
_OPTIONS: Any = {"cache": True, "fastmath": {"reassoc", "contract", "nsz"}, "nogil": True, "error_model": "numpy"}


@dataclass(frozen=True)
class Loops:
    """The compiled loops of one format; they let go of the interpreter's lock, so that threads can share the work."""

    encode: Callable[..., None]
    decode: Callable[..., None]
    mix: Callable[..., None]


@register_jitable(inline="always")
def _group(
    codes: Bytes, at: int, out: Wide, begin: int, count: int, scale: np.float32, zero: np.float32, bits: int
) -> None:
    """``count`` codes (eight, or a slot's last few), which begin at byte ``at``, into ``out[begin:begin + count]``."""
    last = at + (count * bits - 1) // 8
    for k in range(count):
        first = at + k * bits // 8
        # A code lies in one byte or across two.
        pair = np.uint32(codes[first]) | (np.uint32(codes[min(first + 1, last)]) << np.uint32(8))
        code = (pair >> np.uint32(k * bits % 8)) & np.uint32(2**bits - 1)
        out[begin + k] = (np.float32(np.int32(code)) - zero) * scale


@register_jitable(inline="always")
def _slot(codes: Bytes, at: int, width: int, zero: np.float32, out: Wide, bits: int, block: int) -> None:
    """Decode the slot that begins at byte ``at`` into ``out`` ``[W]``."""
    blocks = (width + block - 1) // block
    packed = at + 2 * blocks
    for b in range(blocks):
        bf16 = np.uint32(codes[at + 2 * b]) | (np.uint32(codes[at + 2 * b + 1]) << np.uint32(8))
        scale = np.uint32(bf16 << np.uint32(16)).view(np.float32)
        begin = b * block
        if begin + block <= width:
            for g in range(block // 8):
                _group(codes, packed + (begin // 8 + g) * bits, out, begin + 8 * g, 8, scale, zero, bits)
        else:
            for first in range(begin, width, 8):
                _group(codes, packed + first // 8 * bits, out, first, min(8, width - first), scale, zero, bits)


@register_jitable
def _best(x: Wide, above: Wide, below: Wide, zero: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """The scale for a block ``x`` with the least squared error; 0 for a block of zeros.

    ``above`` and ``below`` are how many steps its largest and its smallest value may be from 0, for every step that is
    tried; where they differ, both signs of the step are.
    """
    up = down = np.float32(0.0)
    for i in range(len(x)):
        up, down = max(up, x[i]), max(down, -x[i])
    largest = max(up, down)
    scale = np.float32(0.0)
    if largest == 0:
        return scale
    least = np.inf
    for flipped in range(2 if above[0] != below[0] else 1):
        if flipped:
            up, down = down, up
        for trial in range(len(above)):
            needed = max(np.float32(up / above[trial]), np.float32(down / below[trial]))
            bits = (np.float32(needed).view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)
            tried = max(np.uint32(bits).view(np.float32), _TINY)
            if flipped:
                tried = -tried
            ratio, off = tried / largest, 0.0
            for i in range(len(x)):
                code = min(max(np.rint(x[i] / tried + zero), low), high)
                off += ((code - zero) * ratio - x[i] / largest) ** 2
            if off < least:
                least, scale = off, tried
    return scale


def loops(bits: int, block: int, dim: int) -> Loops:
    """The loops for codes of ``bits`` bits with a scale for ``block`` values, mixed by heads ``dim`` wide (0: any)."""
    return _made(bits, block, dim if dim in WIDTHS else 0)


@cache
def _made(bits: int, block: int, known: int) -> Loops:
    # The compiled code on disk is told apart by what a loop closes over, hence by all three arguments.

    def encode(rows: Wide, above: Wide, below: Wide, zero: np.float32, low: np.float32, out: Bytes) -> None:
        """Fill ``out`` ``[R, row_bytes]`` from ``rows`` ``[R, M, W]``; see :func:`_best`."""
        slots, width = rows.shape[1:]
        high = np.float32(2**bits - 1)
        blocks = (width + block - 1) // block
        size = out.shape[1] // slots
        given = np.empty(block, np.float32)
        for r in range(len(rows)):
            for m in range(slots):
                slot = out[r, m * size : (m + 1) * size]
                for b in range(blocks):
                    x = rows[r, m, b * block : min((b + 1) * block, width)]
                    step = _best(x, above, below, zero, low, high)
                    bf16 = np.float32(step).view(np.uint32) >> np.uint32(16)
                    slot[2 * b], slot[2 * b + 1] = np.uint8(bf16), np.uint8(bf16 >> np.uint32(8))
                    given[:] = 0.0
                    if step != 0:
                        for i in range(len(x)):
                            given[i] = min(max(np.rint(x[i] / step + zero), low), high)
                    begin = 2 * blocks + b * block * bits // 8
                    end = min(begin + block * bits // 8, size)
                    for g in range(block // 8):
                        word = np.uint64(0)
                        for i in range(8):
                            word |= np.uint64(given[8 * g + i]) << np.uint64(bits * i)
                        for j in range(bits):
                            if begin + g * bits + j < end:
                                slot[begin + g * bits + j] = np.uint8(word >> np.uint64(8 * j))

    def decode(codes: Bytes, zero: np.float32, out: Wide) -> None:
        """Fill ``out`` ``[R, M, W]`` from ``codes`` ``[R, row_bytes]``."""
        slots, width = out.shape[1:]
        size = codes.shape[1] // slots
        for r in range(len(codes)):
            for m in range(slots):
                _slot(codes[r], m * size, width, zero, out[r, m], bits, block)

    def mix(
        gates: Wide,
        codes: Bytes,
        zero: np.float32,
        order: Index,
        offsets: Index,
        places: Index,
        out: Wide,
        first: int,
        last: int,
    ) -> None:
        """Fill ``out`` ``[N, H, D]`` from ``gates`` ``[N, H, M]`` and ``codes`` for ``order[first:last]``.

        A row is decoded once for its segment, into memory that stays in the cache.
        """
        heads, slots = gates.shape[1:]
        dim = known if known else out.shape[2]
        width, whole = heads * dim, slots - slots % 4
        size = codes.shape[1] // slots
        row, total = np.empty((slots, width), np.float32), np.empty(dim, np.float32)
        s = np.searchsorted(offsets, first, side="right") - 1
        i = first
        while i < last:
            while offsets[s + 1] <= i:
                s += 1
            for m in range(slots):
                _slot(codes[places[s]], m * size, width, zero, row[m], bits, block)
            end = min(offsets[s + 1], last)
            for j in range(i, end):
                n = order[j]
                soon = order[min(j + AHEAD, len(order) - 1)]
                _expect(gates, soon)
                _expect(out, soon)
                for h in range(heads):
                    start = h * dim
                    for d in range(dim):
                        total[d] = 0.0
                    for m in range(0, whole, 4):
                        a, b, c, e = gates[n, h, m], gates[n, h, m + 1], gates[n, h, m + 2], gates[n, h, m + 3]
                        ra, rb = row[m, start : start + dim], row[m + 1, start : start + dim]
                        rc, re = row[m + 2, start : start + dim], row[m + 3, start : start + dim]
                        for d in range(dim):
                            total[d] += (a * ra[d] + b * rb[d]) + (c * rc[d] + e * re[d])
                    for m in range(whole, slots):
                        a, ra = gates[n, h, m], row[m, start : start + dim]
                        for d in range(dim):
                            total[d] += a * ra[d]
                    for d in range(dim):
                        out[n, h, d] = total[d]
            i = end

    compiled, exact = njit(**_OPTIONS), njit(**{**_OPTIONS, "fastmath": False})
    return Loops(exact(encode), compiled(decode), compiled(mix))
