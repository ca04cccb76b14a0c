"""Loops of the CPU path, compiled by Numba when they are first called (and kept on disk for the next process).

Each is made for one width of a head (the compiler then knows how often the innermost loop runs). A call does one chunk
of the work, and chunks own what they write, so the result does not depend on who runs which.

Shapes: N tokens, H heads, M slots, D width of a head, R rows, S segments. Segment s holds the tokens
``order[offsets[s]:offsets[s + 1]]``, which all read row ``places[s]``; it may be empty. bf16 arrays come as uint16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

Array = NDArray[np.float32] | NDArray[np.uint16]
Wide = NDArray[np.float32]
Index = NDArray[np.int64]

#: Widths of a head that have loops of their own; all others share loops that are told the width when they run.
WIDTHS = (64, 128)
#: How many tokens ahead their parts of the arrays are asked for.
AHEAD = 2
# Sums may be reordered into vector lanes, but NaN and infinity must come through: training skips such steps.
_OPTIONS: Any = {"cache": True, "fastmath": {"reassoc", "contract", "nsz"}, "nogil": True, "error_model": "numpy"}


@dataclass(frozen=True)
class Loops:
    """The compiled loops for one width; the last argument of each is where its chunk begins and ends."""

    forward: Callable[..., None]
    gates: Callable[..., None]
    rows: Callable[..., None]


def loops(width: int) -> Loops:
    """The loops for heads ``width`` wide."""
    return _made(width if width in WIDTHS else 0)


def token_bounds(tokens: int, chunks: int) -> Index:
    """``[chunks + 1]`` where each chunk of the ordered tokens begins and ends."""
    return np.arange(chunks + 1, dtype=np.int64) * tokens // chunks


def unit_bounds(offsets: Index, slots: int, chunks: int) -> Index:
    """``[chunks + 1]`` where each chunk of the units begins; unit ``s * M + m`` is slot m of segment s.

    A unit costs its tokens, and about two more for the row that it streams through; an empty one costs nothing.
    """
    counts = np.diff(offsets)
    ends = np.cumsum(slots * (counts + 2 * (counts > 0)))
    total = int(ends[-1]) if len(ends) else 0
    wanted = np.arange(1, chunks, dtype=np.int64) * total // chunks
    segments = np.searchsorted(ends, wanted, side="right")
    before = ends[segments] - slots * (counts[segments] + 2)
    inside = (wanted - before) // (counts[segments] + 2)
    return np.concatenate([[0], segments * slots + inside, [slots * len(counts)]]).astype(np.int64)


def _wide(value: Any) -> Any:
    """A number as float32; a bf16 is the upper half of one."""
    raise NotImplementedError


@overload(_wide, inline="always", strict=False)
def _wide_compiled(value: Any) -> Any:
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)


def _put(out: Any, at: Any, value: Any) -> None:
    """Write a float32 into an array, rounded to the nearest bf16 (ties to even) where the array holds bf16."""
    raise NotImplementedError


@overload(_put, strict=False)
def _put_compiled(out: Any, at: Any, value: Any) -> Any:
    if isinstance(out.dtype, types.Float):

        def store(out: Any, at: Any, value: Any) -> None:
            out[at] = value

        return store

    def round_and_store(out: Any, at: Any, value: Any) -> None:
        bits = np.uint32(np.float32(value).view(np.uint32))
        rounded = np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
        if value != value:
            rounded = np.uint32(0x7FC00000)
        out[at] = np.uint16(rounded >> np.uint32(16))

    return round_and_store


@intrinsic
def _fetch(_: Any, address: Any) -> Any:
    """Ask for the cache line at an address; harmless wherever it points."""

    def emit(context: Any, builder: Any, __: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(8)))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type] + [ir.IntType(32)] * 3)
        # Arguments of LLVM's own: to be read, kept in the second level, data and not code.
        how = [ir.Constant(ir.IntType(32), value) for value in (0, 2, 1)]
        builder.call(builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind), [pointer, *how])
        return context.get_dummy_value()

    return types.void(types.intp), emit


def _expect(array: Any, n: Any) -> None:
    """Ask for ``array[n]`` ahead of its use: tokens of equal ids lie far apart, where no hardware looks ahead."""
    raise NotImplementedError


@overload(_expect, strict=False)
def _expect_compiled(array: Any, n: Any) -> Any:
    def ask(array: Any, n: Any) -> None:
        begin = array.ctypes.data + n * array.strides[0]
        for at in range(begin, begin + array.strides[0], 64):
            _fetch(at)  # type: ignore[call-arg]

    return ask


def _expect_slots(array: Any, r: Any, m: Any) -> None:
    """Ask for four slots ``array[r, m:m + 4]`` ahead of their use."""
    raise NotImplementedError


@overload(_expect_slots, strict=False)
def _expect_slots_compiled(array: Any, r: Any, m: Any) -> Any:
    def ask(array: Any, r: Any, m: Any) -> None:
        begin = array.ctypes.data + r * array.strides[0]
        end = begin + min(m + 4, array.shape[1]) * array.strides[1]
        for at in range(begin + m * array.strides[1], end, 64):
            _fetch(at)  # type: ignore[call-arg]

    return ask


@cache
def _made(known: int) -> Loops:
    # The compiled code on disk is told apart by what a loop closes over, hence by the width.

    def forward(gates: Array, rows: Array, order: Index, offsets: Index, places: Index, out: Array, at: Index) -> None:
        """Fill ``out`` ``[N, H, D]`` from ``gates`` ``[N, H, M]`` and ``rows`` ``[R, M, H, D]``; chunks of tokens."""
        heads, slots = gates.shape[1:]
        width = known if known else rows.shape[3]
        whole = slots - slots % 4
        total = np.empty((heads, width), np.float32)
        s = np.searchsorted(offsets, at[0], side="right") - 1
        for i in range(at[0], at[1]):
            while offsets[s + 1] <= i:
                s += 1
            n, r = order[i], places[s]
            soon = order[min(i + AHEAD, len(order) - 1)]
            _expect(gates, soon)
            _expect(out, soon)
            turns = i + 1 == offsets[s + 1] and i + 1 < len(order)
            total[:] = 0.0
            # Slots outside, heads inside: that is how a row lies in memory.
            for m in range(0, slots, 4):
                if turns:
                    _expect_slots(rows, places[s + 1], m)
                if m == whole:
                    break
                for h in range(heads):
                    a, b = _wide(gates[n, h, m]), _wide(gates[n, h, m + 1])
                    c, e = _wide(gates[n, h, m + 2]), _wide(gates[n, h, m + 3])
                    t, ra, rb = total[h], rows[r, m, h], rows[r, m + 1, h]
                    rc, re = rows[r, m + 2, h], rows[r, m + 3, h]
                    for d in range(width):
                        t[d] += (a * _wide(ra[d]) + b * _wide(rb[d])) + (c * _wide(rc[d]) + e * _wide(re[d]))
            for m in range(whole, slots):
                for h in range(heads):
                    a, t, ra = _wide(gates[n, h, m]), total[h], rows[r, m, h]
                    for d in range(width):
                        t[d] += a * _wide(ra[d])
            for h in range(heads):
                for d in range(width):
                    _put(out[n, h], d, total[h, d])

    def gates(grad: Array, rows: Array, order: Index, offsets: Index, places: Index, out: Array, at: Index) -> None:
        """Fill ``out`` ``[N, H, M]``, the gates' gradient, from ``grad`` ``[N, H, D]``; chunks of tokens."""
        heads, slots = out.shape[1:]
        width = known if known else rows.shape[3]
        whole = slots - slots % 4
        x = np.empty((heads, width), np.float32)
        s = np.searchsorted(offsets, at[0], side="right") - 1
        for i in range(at[0], at[1]):
            while offsets[s + 1] <= i:
                s += 1
            n, r = order[i], places[s]
            soon = order[min(i + AHEAD, len(order) - 1)]
            _expect(grad, soon)
            _expect(out, soon)
            turns = i + 1 == offsets[s + 1] and i + 1 < len(order)
            for h in range(heads):
                for d in range(width):
                    x[h, d] = _wide(grad[n, h, d])
            for m in range(0, slots, 4):
                if turns:
                    _expect_slots(rows, places[s + 1], m)
                if m == whole:
                    break
                for h in range(heads):
                    y, ra, rb = x[h], rows[r, m, h], rows[r, m + 1, h]
                    rc, re = rows[r, m + 2, h], rows[r, m + 3, h]
                    a = b = c = e = np.float32(0.0)
                    for d in range(width):
                        a += y[d] * _wide(ra[d])
                        b += y[d] * _wide(rb[d])
                        c += y[d] * _wide(rc[d])
                        e += y[d] * _wide(re[d])
                    _put(out[n, h], m, a)
                    _put(out[n, h], m + 1, b)
                    _put(out[n, h], m + 2, c)
                    _put(out[n, h], m + 3, e)
            for m in range(whole, slots):
                for h in range(heads):
                    y, ra, a = x[h], rows[r, m, h], np.float32(0.0)
                    for d in range(width):
                        a += y[d] * _wide(ra[d])
                    _put(out[n, h], m, a)

    def rows(grad: Array, gates: Array, order: Index, offsets: Index, places: Index, into: Wide, at: Index) -> None:
        """Add the rows' gradient to ``into`` ``[R, M, H, D]``, four tokens of a segment at a time; chunks of units."""
        slots, heads = into.shape[1:3]
        width = known if known else into.shape[3]
        xa, xb = np.empty((heads, width), np.float32), np.empty((heads, width), np.float32)
        xc, xe = np.empty((heads, width), np.float32), np.empty((heads, width), np.float32)
        unit = at[0]
        while unit < at[1]:
            s, low = unit // slots, unit % slots
            high = min(slots, low + at[1] - unit)
            unit += high - low
            r, begin, end = places[s], offsets[s], offsets[s + 1]
            whole = end - (end - begin) % 4
            for i in range(begin, whole, 4):
                for j in range(i + 4, min(i + 8, len(order))):
                    _expect(grad, order[j])
                    _expect(gates, order[j])
                na, nb, nc, ne = order[i], order[i + 1], order[i + 2], order[i + 3]
                for h in range(heads):
                    for d in range(width):
                        xa[h, d], xb[h, d] = _wide(grad[na, h, d]), _wide(grad[nb, h, d])
                        xc[h, d], xe[h, d] = _wide(grad[nc, h, d]), _wide(grad[ne, h, d])
                for m in range(low, high):
                    for h in range(heads):
                        a, b = _wide(gates[na, h, m]), _wide(gates[nb, h, m])
                        c, e = _wide(gates[nc, h, m]), _wide(gates[ne, h, m])
                        g, ya, yb, yc, ye = into[r, m, h], xa[h], xb[h], xc[h], xe[h]
                        for d in range(width):
                            g[d] += (a * ya[d] + b * yb[d]) + (c * yc[d] + e * ye[d])
            for i in range(whole, end):
                n = order[i]
                soon = order[min(i + AHEAD, len(order) - 1)]
                _expect(grad, soon)
                _expect(gates, soon)
                for h in range(heads):
                    for d in range(width):
                        xa[h, d] = _wide(grad[n, h, d])
                turns = i + 1 == end and s + 1 < len(places)
                for m in range(low, high):
                    if turns and m % 4 == 0:
                        _expect_slots(into, places[s + 1], m)
                    for h in range(heads):
                        a, g, ya = _wide(gates[n, h, m]), into[r, m, h], xa[h]
                        for d in range(width):
                            g[d] += a * ya[d]

    compiled = njit(**_OPTIONS)
    return Loops(compiled(forward), compiled(gates), compiled(rows))
