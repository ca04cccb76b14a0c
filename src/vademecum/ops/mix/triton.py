"""The mix on a GPU: one program per (segment, head) loads its row once, for all tokens that read it.

Segments come cut to at most :data:`~vademecum.lookup.LONGEST` tokens, so that no program works long after the others.
The gradient of a row that several segments share is added up in a fixed order from their partial sums; nothing is
atomic, and the result is the same every time. Products are taken with 16 tokens at once on the matrix units, or
without them where a segment holds one token, as most do.

Under ``TRITON_INTERPRET=1`` the kernels run on CPU tensors, which is how the tests see them.
"""

# Triton reads the kernels' own notation where annotations stand.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from vademecum.lookup import LONGEST, Segments

#: Tokens in one matrix product, the fewest that the matrix units take.
TOKENS = 16
#: Elements of a row that one program holds at once.
TILE = 8192


def forward(gates: Tensor, rows: Tensor, segments: Segments) -> Tensor:
    """``[N, H, D]`` in the dtype of ``gates`` from ``gates`` ``[N, H, M]`` and ``rows`` ``[R, M, H, D]``."""
    out = gates.new_empty(*gates.shape[:2], rows.shape[-1])
    if out.numel():
        grid, shape = _shape(rows, segments, 1024)
        with launched_on(rows):
            _forward[grid](gates, rows, *segments, out, **shape, **_product(gates, rows, "ieee"))
    return out


def backward(grad: Tensor, gates: Tensor, rows: Tensor, segments: Segments, into: Tensor | None) -> Tensor:
    """Gradient of ``gates``; that of ``rows`` is added to ``into`` (fp32 ``[R, M, H, D]``) unless that is None."""
    out = torch.empty_like(gates)
    if gates.numel():
        with launched_on(rows):
            _backward(grad, gates, rows, segments, into, out)
    return out


def launched_on(tensor: Tensor) -> AbstractContextManager[Any]:
    """Kernels go to the device of ``tensor`` and not to the current one, for hosts that are spread over several."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _backward(grad: Tensor, gates: Tensor, rows: Tensor, segments: Segments, into: Tensor | None, out: Tensor) -> None:
    grid, shape = _shape(rows, segments, 1024)
    _gates[grid[:2]](grad, rows, *segments, out, **shape, **_product(grad, rows, "tf32x3"))
    if into is not None:
        grid, shape = _shape(rows, segments, 512)
        buckets = triton.cdiv(len(segments.order), LONGEST)
        parts = torch.empty(2 * buckets, *rows.shape[1:], dtype=torch.float32, device=rows.device)
        product = _product(grad, gates, "ieee")
        _rows[grid](grad, gates, *segments, into, parts, **shape, **product, LONGEST=LONGEST)
        _add_parts[grid](*segments[1:], into, parts, **shape, LONGEST=LONGEST)


def _shape(rows: Tensor, segments: Segments, elements: int) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """The grid and the sizes; a warp takes ``elements`` of a row (what an H100 was fastest with, as is the next)."""
    _, slots, heads, width = rows.shape
    tall = max(16, triton.next_power_of_2(slots))
    wide = max(16, min(triton.next_power_of_2(width), TILE // tall))
    grid = (len(segments.places), heads, triton.cdiv(width, wide))
    warps = min(8, triton.next_power_of_2(triton.cdiv(slots * min(width, wide), elements)))
    return grid, {"H": heads, "M": slots, "D": width, "MP": tall, "DP": wide, "num_warps": warps}


def _product(a: Tensor, b: Tensor, wide: str) -> dict[str, Any]:
    """How the matrix units multiply: two narrow operands as they are, else both as fp32 in the way called ``wide``.

    Narrow operands are called "tf32", which says nothing to them.
    """
    # Triton's interpreter multiplies the bits of bf16 as if they were whole numbers.
    narrow = a.dtype == b.dtype and a.dtype != torch.float32 and not triton.knobs.runtime.interpret
    return {"HOW": "tf32" if narrow else wide, "T": TOKENS}


@triton.jit  # type: ignore[untyped-decorator]
def _dot(a, b, HOW: tl.constexpr):
    if HOW != "tf32":
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=HOW)


@triton.jit  # type: ignore[untyped-decorator]
def _forward(
    gates, rows, order, offsets, places, out,
    H: tl.constexpr, M: tl.constexpr, D: tl.constexpr, MP: tl.constexpr, DP: tl.constexpr,
    HOW: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    s, h = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(offsets + s), tl.load(offsets + s + 1)
    if begin < end:
        m, d = tl.arange(0, MP), tl.program_id(2) * DP + tl.arange(0, DP)
        row = tl.load(places + s) * (M * H * D) + h * D
        at = row + m[:, None] * (H * D) + d[None, :]
        tile = tl.load(rows + at, mask=(m < M)[:, None] & (d < D)[None, :], other=0.0)
        if end - begin == 1:
            n = tl.load(order + begin) * H + h
            g = tl.load(gates + n * M + m, mask=m < M, other=0.0)
            mixed = tl.sum(g.to(tl.float32)[:, None] * tile.to(tl.float32), 0)
            tl.store(out + n * D + d, mixed, mask=d < D)
        else:
            for i in range(begin, end, T):
                t = i + tl.arange(0, T)
                n = tl.load(order + t, mask=t < end, other=0) * H + h
                g = tl.load(gates + n[:, None] * M + m[None, :], mask=(t < end)[:, None] & (m < M)[None, :], other=0.0)
                mixed = _dot(g, tile, HOW)
                tl.store(out + n[:, None] * D + d[None, :], mixed, mask=(t < end)[:, None] & (d < D)[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _gates(
    grad, rows, order, offsets, places, out,
    H: tl.constexpr, M: tl.constexpr, D: tl.constexpr, MP: tl.constexpr, DP: tl.constexpr,
    HOW: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    s, h = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(offsets + s), tl.load(offsets + s + 1)
    if begin < end:
        m = tl.arange(0, MP)
        row = tl.load(places + s) * (M * H * D) + h * D
        if end - begin == 1:
            n = tl.load(order + begin) * H + h
            total = tl.zeros((MP,), tl.float32)
            for start in tl.static_range(0, D, DP):
                d = start + tl.arange(0, DP)
                at = row + m[:, None] * (H * D) + d[None, :]
                tile = tl.load(rows + at, mask=(m < M)[:, None] & (d < D)[None, :], other=0.0)
                x = tl.load(grad + n * D + d, mask=d < D, other=0.0)
                total += tl.sum(x.to(tl.float32)[None, :] * tile.to(tl.float32), 1)
            tl.store(out + n * M + m, total, mask=m < M)
        else:
            for i in range(begin, end, T):
                t = i + tl.arange(0, T)
                n = tl.load(order + t, mask=t < end, other=0) * H + h
                sums = tl.zeros((T, MP), tl.float32)
                for start in tl.static_range(0, D, DP):
                    d = start + tl.arange(0, DP)
                    at = row + m[None, :] * (H * D) + d[:, None]
                    tile = tl.load(rows + at, mask=(m < M)[None, :] & (d < D)[:, None], other=0.0)
                    x = tl.load(
                        grad + n[:, None] * D + d[None, :], mask=(t < end)[:, None] & (d < D)[None, :], other=0.0
                    )
                    sums += _dot(x, tile, HOW)
                tl.store(out + n[:, None] * M + m[None, :], sums, mask=(t < end)[:, None] & (m < M)[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _rows(
    grad, gates, order, offsets, places, into, parts,
    H: tl.constexpr, M: tl.constexpr, D: tl.constexpr, MP: tl.constexpr, DP: tl.constexpr,
    HOW: tl.constexpr, T: tl.constexpr, LONGEST: tl.constexpr,
):  # fmt: skip
    s, h = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(offsets + s), tl.load(offsets + s + 1)
    if begin < end:
        m, d = tl.arange(0, MP), tl.program_id(2) * DP + tl.arange(0, DP)
        inside = (m < M)[:, None] & (d < D)[None, :]
        place = tl.load(places + s)
        at = h * D + m[:, None] * (H * D) + d[None, :]
        if end - begin == 1:
            n = tl.load(order + begin) * H + h
            g = tl.load(gates + n * M + m, mask=m < M, other=0.0)
            x = tl.load(grad + n * D + d, mask=d < D, other=0.0)
            total = g.to(tl.float32)[:, None] * x.to(tl.float32)[None, :]
        else:
            total = tl.zeros((MP, DP), tl.float32)
            for i in range(begin, end, T):
                t = i + tl.arange(0, T)
                n = tl.load(order + t, mask=t < end, other=0) * H + h
                g = tl.load(gates + n[None, :] * M + m[:, None], mask=(t < end)[None, :] & (m < M)[:, None], other=0.0)
                x = tl.load(grad + n[:, None] * D + d[None, :], mask=(t < end)[:, None] & (d < D)[None, :], other=0.0)
                total += _dot(g, x, HOW)
        segments = tl.num_programs(0)
        follows = (s > 0) & (tl.load(places + tl.maximum(s - 1, 0)) == place)
        after = tl.minimum(s + 1, segments - 1)
        goes_on = (after > s) & (tl.load(places + after) == place) & (tl.load(offsets + after + 1) > end)
        if follows | goes_on:
            # Within LONGEST tokens at most one segment is the first of a shared row, and at most one a later one.
            part = begin // LONGEST * 2 + follows.to(tl.int64)
            tl.store(parts + part * (M * H * D) + at, total, mask=inside)
        else:
            into += place * (M * H * D)
            tl.store(into + at, tl.load(into + at, mask=inside, other=0.0) + total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _add_parts(
    offsets, places, into, parts,
    H: tl.constexpr, M: tl.constexpr, D: tl.constexpr, MP: tl.constexpr, DP: tl.constexpr, LONGEST: tl.constexpr,
):  # fmt: skip
    s, h = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(offsets + s), tl.load(offsets + s + 1)
    # Only a full segment can be the first of several that share a row.
    if end - begin == LONGEST:
        place = tl.load(places + s)
        follows = (s > 0) & (tl.load(places + tl.maximum(s - 1, 0)) == place)
        last = tl.num_programs(0) - 1
        after = tl.minimum(s + 1, last)
        goes_on = (after > s) & (tl.load(places + after) == place) & (tl.load(offsets + after + 1) > end)
        if goes_on & (follows == 0):
            m, d = tl.arange(0, MP), tl.program_id(2) * DP + tl.arange(0, DP)
            inside = (m < M)[:, None] & (d < D)[None, :]
            at = h * D + m[:, None] * (H * D) + d[None, :]
            # Counted first: older compilers of Triton fail on a tile that is carried round an open-ended loop.
            stop = after
            while goes_on:
                end = tl.load(offsets + stop + 1)
                stop += 1
                ahead = tl.minimum(stop, last)
                goes_on = (stop <= last) & (tl.load(places + ahead) == place) & (tl.load(offsets + ahead + 1) > end)
            total = tl.load(parts + begin // LONGEST * 2 * (M * H * D) + at, mask=inside, other=0.0)
            for k in range(after, stop):
                part = tl.load(offsets + k) // LONGEST * 2 + 1
                total += tl.load(parts + part * (M * H * D) + at, mask=inside, other=0.0)
            into += place * (M * H * D)
            tl.store(into + at, tl.load(into + at, mask=inside, other=0.0) + total, mask=inside)
