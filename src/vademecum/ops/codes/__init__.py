"""Rows in fewer bits: encoded once after training, decoded where they are read.

A compressed bank is for inference and for the disk; it cannot be trained. What the formats are, how far a decoded
value may lie from the one encoded, and why, stands in :mod:`vademecum.ops.codes.formats` and in decision 0009.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vademecum.lookup import Lookup, Segments
from vademecum.ops import specified
from vademecum.ops.codes import cpu, naive
from vademecum.ops.codes.formats import FORMATS, Format, find
from vademecum.ops.mix import library, mix_slots
from vademecum.ops.mix import naive as mix

__all__ = ["FORMATS", "Format", "decode", "encode", "find", "mix_codes"]

#: Values beyond this are refused: their scale would not be finite in every format.
LARGEST = 2.0**126


def encode(rows: Tensor, form: Format) -> Tensor:
    """``rows`` ``[U, M, W]`` in any floating-point type as codes, uint8 ``[U, row_bytes]``.

    ``|x - decode(encode(x))| <= form.bound * s`` for every value, up to fp32's own rounding, where s is the scale of
    its block without its sign: at most 1.008 times the block's largest magnitude over ``form.above`` (bf16's rounding,
    always upwards), and never under 2**-133. ``bound`` is half a step for int8 and int4. A row of zeros comes back
    as zeros. fp32 keeps the rows as they are, bf16 rounds to the nearest.

    Raises:
        ValueError: a value is NaN, infinite or beyond 2**126.
    """
    if rows.dim() != 3 or not rows.dtype.is_floating_point:
        raise ValueError(f"{rows.dtype} of shape {list(rows.shape)} was given; expected rows [U, slots, width].")
    wide = rows.detach().float()
    # NaN is below nothing, so the test is for what is good.
    if not bool((wide.abs() <= LARGEST).all()):
        bad = int((~(wide.abs() <= LARGEST).flatten(1).all(-1)).nonzero()[0])
        raise ValueError(
            f"row {bad} of {len(rows)} holds a value that is NaN, infinite or beyond 2**126, which no format can keep; "
            "find out where training diverged and compress an earlier save."
        )
    if form.dtype is not None:
        return wide.to(form.dtype).contiguous().view(torch.uint8).flatten(1)
    if specified() or wide.device.type != "cpu" or torch.compiler.is_compiling():
        return naive.encode(wide, form)
    return cpu.encode(wide.contiguous(), form)


def decode(codes: Tensor, form: Format, slots: int, width: int) -> Tensor:
    """Rows fp32 ``[U, M, W]`` from ``codes`` uint8 ``[U, row_bytes]``.

    Raises:
        ValueError: the codes are not of such rows.
    """
    _require(codes, form, slots, width)
    if form.dtype is not None:
        return _kept(codes, form, slots, width).float()
    if specified() or codes.device.type != "cpu" or torch.compiler.is_compiling():
        return naive.decode(codes, form, slots, width)
    return cpu.decode(codes.contiguous(), form, slots, width)


def mix_codes(gates: Tensor, codes: Tensor, form: Format, lookup: Lookup, dim: int) -> Tensor:
    """:func:`vademecum.ops.mix.mix_slots` over rows in codes; for inference, without gradients.

    Args:
        gates: ``[N, H, M]`` weights.
        codes: uint8 ``[U, row_bytes]``, the distinct rows of this forward.
        form: what they are in.
        lookup: which of the rows belongs to token n.
        dim: width D of a head; a row is ``[M, H * D]``.

    Returns:
        ``[N, H, D]`` in the dtype of ``gates``; sums are taken in fp32. A row is decoded where it is used, never a
        table of them; only in a compiled graph, and where Triton is not installed beside a GPU, are the rows of this
        forward decoded at once.

    Raises:
        ValueError: the codes are not of such rows.
        RuntimeError: a gradient is wanted.
    """
    heads, slots = gates.shape[1:]
    _require(codes, form, slots, heads * dim)
    if torch.is_grad_enabled() and gates.requires_grad:
        raise RuntimeError(
            "a gradient through a compressed bank was asked for; run it under torch.no_grad(), or load the bank that "
            "was compressed and train that."
        )
    if form.dtype is not None:
        return mix_slots(gates, _kept(codes, form, slots, heads * dim).view(-1, slots, heads, dim), lookup)
    same = codes.device == gates.device
    if same and codes.is_cuda and library.TRITON and not specified() and not torch.compiler.is_compiling():
        from vademecum.ops.codes import triton

        return triton.mix(gates.contiguous(), codes.contiguous(), form, _segments(lookup), dim)
    if specified() or not same or codes.device.type != "cpu" or torch.compiler.is_compiling():
        rows = naive.decode(codes, form, slots, heads * dim).view(-1, slots, heads, dim)
        return mix.mix_slots(gates, rows, lookup.inverse) if specified() else mix_slots(gates, rows, lookup)
    out = cpu.mix(gates.detach().float().contiguous(), codes.contiguous(), form, _segments(lookup), dim)
    return out.to(gates.dtype)


def _segments(lookup: Lookup) -> Segments:
    if lookup.inverse.numel() == 1:
        # A token alone, as in decoding: nothing to order.
        return Segments(torch.zeros_like(lookup.inverse), lookup.inverse.new_tensor([0, 1]), lookup.inverse)
    return lookup.segments


def _kept(codes: Tensor, form: Format, slots: int, width: int) -> Tensor:
    assert form.dtype is not None
    return codes.contiguous().view(form.dtype).view(len(codes), slots, width)


def _require(codes: Tensor, form: Format, slots: int, width: int) -> None:
    expected = form.row_bytes(slots, width)
    if codes.dtype != torch.uint8 or codes.dim() != 2 or codes.shape[1] != expected:
        raise ValueError(
            f"{codes.dtype} of shape {list(codes.shape)} was given for rows of {slots} x {width} values in "
            f"{form.name}; expected uint8 [rows, {expected}]."
        )
