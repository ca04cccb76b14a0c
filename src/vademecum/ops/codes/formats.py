"""What a row looks like in fewer bits: the formats, as data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

#: Bytes of a block's scale: a bf16, which reaches as far as fp32, so that no row is too small or too large for it.
SCALE = 2
#: Values whose codes are packed together: ``bits`` bytes.
GROUP = 8


@dataclass(frozen=True)
class Format:
    """Codes of ``bits`` bits per value with one scale for a block of values along the row's width.

    A value is ``(code - zero) * scale``; the scale may be negative. A row ``[M, W]`` is M slots one after the other; a
    slot is its scales (bf16, little-endian), then its codes: value i takes the bits ``i * bits`` to ``(i + 1) * bits``
    of the bytes, lowest first. A block of zeros has scale 0 and codes 0, so a row of zeros is bytes of zero.

    Attributes:
        name: what it is called.
        bits: of a code; 0 where rows are kept as they are, in ``dtype``.
        block: values that share a scale; a multiple of 8. The last block of a width may be shorter.
        zero: the code that stands for 0; half-way between two codes where no code does.
        low: the smallest code that is used. Where there are more levels below 0 than above, a block whose largest
            value is positive takes a negative scale, and has its level too.
        rooms: how many steps of the scale the largest value of a block may lie beyond the last level, as the encoder
            tries it; the one with the least squared error is taken.
        dtype: of the values of a format that keeps them.
    """

    name: str
    bits: int = 0
    block: int = 32
    zero: float = 0.0
    low: int = 0
    rooms: tuple[float, ...] = (0.0,)
    dtype: torch.dtype | None = None

    @property
    def high(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    @property
    def above(self) -> float:
        """The largest level, in steps of the scale."""
        return self.high - self.zero

    @property
    def below(self) -> float:
        """The smallest level, in steps of the scale, without its sign."""
        return self.zero - self.low

    @property
    def signs(self) -> tuple[int, ...]:
        """Signs of the scale that are tried."""
        return (1,) if self.above == self.below else (1, -1)

    @property
    def bound(self) -> float:
        """How far, in steps of its scale, a value that is decoded may lie from the one that was encoded."""
        return max(0.5, *self.rooms) if self.bits else 0.0

    def blocks(self, width: int) -> int:
        """Scales of a slot."""
        return -(-width // self.block)

    def slot_bytes(self, width: int) -> int:
        """Bytes of one slot of ``width`` values."""
        if self.dtype is not None:
            return width * self.dtype.itemsize
        return SCALE * self.blocks(width) + -(-width * self.bits // 8)

    def row_bytes(self, slots: int, width: int) -> int:
        """Bytes of a row of ``slots`` slots."""
        return slots * self.slot_bytes(width)

    def bits_per_value(self, width: int) -> float:
        """Bits that a value takes, its share of the scales included."""
        return 8 * self.slot_bytes(width) / width


#: By name, the coded ones from many bits to few. The levels of ``int2`` are -1.5, -0.5, 0.5 and 1.5 (decision 0009).
FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format("int8", bits=8, zero=128.0, low=1, rooms=(0.0, 0.25, 0.5)),
        Format("int4", bits=4, zero=8.0, rooms=(0.0, 0.25, 0.5)),
        Format("int3", bits=3, zero=4.0, rooms=(0.0, 0.25, 0.5, 0.75, 1.0)),
        Format("int2", bits=2, zero=1.5, rooms=(0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.2)),
        Format("bf16", dtype=torch.bfloat16),
        Format("fp32", dtype=torch.float32),
    )
}


def find(name: str) -> Format:
    """The format called ``name``.

    Raises:
        ValueError: there is none; the error suggests the nearest.
    """
    if name not in FORMATS:
        near = difflib.get_close_matches(str(name), FORMATS, n=1, cutoff=0)[0]
        raise ValueError(f"format {name!r} was given; did you mean {near!r}? Write one of {', '.join(FORMATS)}.")
    return FORMATS[name]
