"""The mix over codes on a GPU: one program per (segment, head) decodes its part of a row in registers.

What is read from memory is the codes, once for all tokens of a segment; rows in fp32 exist nowhere. Segments come cut
to a bounded number of tokens, as for :mod:`vademecum.ops.mix.triton`. Under ``TRITON_INTERPRET=1`` the kernel runs on
CPU tensors, which is how the tests see it.
"""

# Triton reads the kernels' own notation where annotations stand.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from vademecum.lookup import Segments
from vademecum.ops.codes.formats import Format
from vademecum.ops.mix.triton import launched_on

#: Tokens in one matrix product, the fewest that the matrix units take.
TOKENS = 16
#: Values of a row that one program holds at once.
TILE = 4096


def mix(gates: Tensor, codes: Tensor, form: Format, segments: Segments, dim: int) -> Tensor:
    """``[N, H, D]`` in the dtype of ``gates`` ``[N, H, M]``, from ``codes`` ``[U, row_bytes]``, both contiguous."""
    tokens, heads, slots = gates.shape
    out = gates.new_empty(tokens, heads, dim)
    if not out.numel():
        return out
    tall = max(16, triton.next_power_of_2(slots))
    wide = max(16, min(triton.next_power_of_2(dim), TILE // tall))
    with launched_on(codes):
        _mix[(len(segments.places), heads, triton.cdiv(dim, wide))](
            gates, codes, *segments, out, form.zero,
            H=heads, M=slots, D=dim, MP=tall, DP=wide, T=TOKENS,
            BITS=form.bits, BLOCK=form.block, SLOT=form.slot_bytes(heads * dim),
        )  # fmt: skip
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _decoded(row, h, m, d, zero, inside, H: tl.constexpr, D: tl.constexpr,
             BITS: tl.constexpr, BLOCK: tl.constexpr, SLOT: tl.constexpr):  # fmt: skip
    """Values ``[MP, DP]`` of slots ``m`` and places ``d`` of a head, from the row that begins at ``row``."""
    w = h * D + d
    slot = row + m[:, None] * SLOT
    scale = slot + (w // BLOCK * 2)[None, :]
    lower = tl.load(scale, mask=inside, other=0).to(tl.int32)
    upper = tl.load(scale + 1, mask=inside, other=0).to(tl.int32)
    # A bf16 is the upper half of an fp32.
    step = ((lower | (upper << 8)) << 16).to(tl.float32, bitcast=True)
    shift = (w * BITS % 8)[None, :]
    packed = slot + ((H * D + BLOCK - 1) // BLOCK * 2 + w * BITS // 8)[None, :]
    code = tl.load(packed, mask=inside, other=0).to(tl.int32)
    if 8 % BITS != 0:
        # It may go on in the next byte.
        code |= tl.load(packed + 1, mask=inside & (shift + BITS > 8), other=0).to(tl.int32) << 8
    code = (code >> shift) & ((1 << BITS) - 1)
    return (code.to(tl.float32) - zero) * step


@triton.jit  # type: ignore[untyped-decorator]
def _mix(
    gates, codes, order, offsets, places, out, zero,
    H: tl.constexpr, M: tl.constexpr, D: tl.constexpr, MP: tl.constexpr, DP: tl.constexpr, T: tl.constexpr,
    BITS: tl.constexpr, BLOCK: tl.constexpr, SLOT: tl.constexpr,
):  # fmt: skip
    s, h = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(offsets + s), tl.load(offsets + s + 1)
    if begin < end:
        m, d = tl.arange(0, MP), tl.program_id(2) * DP + tl.arange(0, DP)
        row = codes + tl.load(places + s) * (M * SLOT)
        inside = (m < M)[:, None] & (d < D)[None, :]
        tile = _decoded(row, h, m, d, zero, inside, H, D, BITS, BLOCK, SLOT)
        tile = tl.where(inside, tile, 0.0)
        if end - begin == 1:
            n = tl.load(order + begin) * H + h
            g = tl.load(gates + n * M + m, mask=m < M, other=0.0).to(tl.float32)
            tl.store(out + n * D + d, tl.sum(g[:, None] * tile, 0), mask=d < D)
        else:
            for i in range(begin, end, T):
                t = i + tl.arange(0, T)
                n = tl.load(order + t, mask=t < end, other=0) * H + h
                g = tl.load(gates + n[:, None] * M + m[None, :], mask=(t < end)[:, None] & (m < M)[None, :], other=0.0)
                mixed = tl.dot(g.to(tl.float32), tile, input_precision="ieee")
                tl.store(out + n[:, None] * D + d[None, :], mixed, mask=(t < end)[:, None] & (d < D)[None, :])
