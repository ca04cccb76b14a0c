"""The specification of codes, in plain tensor operations: any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vademecum.ops.codes.formats import GROUP, SCALE, Format

#: The least step: the smallest number that bf16 holds.
TINY = 2.0**-133


def encode(rows: Tensor, form: Format) -> Tensor:
    """``rows`` ``[U, M, W]`` in fp32 as codes ``[U, row_bytes]``."""
    count, slots, width = rows.shape
    blocks = form.blocks(width)
    values = F.pad(rows, (0, blocks * form.block - width)).view(count, slots, blocks, form.block)
    real = torch.arange(blocks * form.block, device=rows.device).view(blocks, form.block) < width
    up, down = values.amax(-1, keepdim=True), -values.amin(-1, keepdim=True)
    largest = torch.maximum(up, down)
    unit = torch.where(largest > 0, largest, 1.0)
    best = torch.full_like(largest, torch.inf)
    scale, codes = torch.zeros_like(largest), torch.zeros_like(values)
    for sign in form.signs:
        above, below = (up, down) if sign > 0 else (down, up)
        for room in form.rooms:
            needed = torch.maximum(above / (form.above + room), below / (form.below + room))
            tried = sign * _rounded_up(needed)
            given = torch.round(values / tried + form.zero).clamp_(form.low, form.high)
            # In units of the largest value, whose square neither overflows nor vanishes.
            off = (((given - form.zero) * (tried / unit) - values / unit) * real).square().sum(-1, keepdim=True)
            better = off < best
            best, scale = torch.where(better, off, best), torch.where(better, tried, scale)
            codes = torch.where(better, given, codes)
    scale, codes = torch.where(largest > 0, scale, 0.0), torch.where(largest > 0, codes, 0.0)
    codes = codes.view(count, slots, -1)[..., :width]
    heads = scale.view(count, slots, blocks).to(torch.bfloat16).view(torch.uint8)
    return torch.cat([heads, pack(codes.to(torch.int64), form.bits)], dim=-1).flatten(1)


def decode(codes: Tensor, form: Format, slots: int, width: int) -> Tensor:
    """``[U, M, W]`` in fp32 from codes ``[U, row_bytes]``."""
    parts = codes.view(len(codes), slots, form.slot_bytes(width))
    heads = SCALE * form.blocks(width)
    # A bf16 is the upper half of an fp32.
    halves = parts[..., 0:heads:2].int() | (parts[..., 1:heads:2].int() << 8)
    scale = (halves << 16).view(torch.float32)
    values = unpack(parts[..., heads:], form.bits, width).float() - form.zero
    return values * scale.repeat_interleave(form.block, -1)[..., :width]


def pack(values: Tensor, bits: int) -> Tensor:
    """Integers ``[..., W]`` below ``2**bits`` as bytes ``[..., ceil(W * bits / 8)]``."""
    width = values.shape[-1]
    padded = F.pad(values, (0, -width % GROUP))
    groups = padded.view(*padded.shape[:-1], -1, GROUP)
    words = (groups << (bits * torch.arange(GROUP, device=values.device))).sum(-1, keepdim=True)
    taken = (words >> (8 * torch.arange(bits, device=values.device))) & 255
    packed: Tensor = taken.flatten(-2)[..., : -(-width * bits // 8)].to(torch.uint8)
    return packed


def unpack(packed: Tensor, bits: int, width: int) -> Tensor:
    """The inverse of :func:`pack`: int64 ``[..., width]``."""
    padded = F.pad(packed.long(), (0, -packed.shape[-1] % bits))
    groups = padded.view(*padded.shape[:-1], -1, bits)
    words = (groups << (8 * torch.arange(bits, device=packed.device))).sum(-1, keepdim=True)
    values = (words >> (bits * torch.arange(GROUP, device=packed.device))) & (2**bits - 1)
    whole: Tensor = values.flatten(-2)
    return whole[..., :width]


def _rounded_up(values: Tensor) -> Tensor:
    """The smallest positive bf16 (as fp32) that is not below ``values`` in fp32; those below 0 are taken as 0."""
    bits = (values.clamp_min(0.0).view(torch.int32) + 0xFFFF) & -65536
    return bits.view(torch.float32).clamp_min(TINY)
