"""The lattice 2*E8 wrapped on a torus: which sizes there are, and which slot a point has.

``L = {z in Z^8: all z_i of one parity, sum z_i divisible by 4}`` has one point for every 256 of volume, shortest
vectors of length sqrt(8) and no place farther than 2 from a point. With periods K_i, all multiples of 4, the torus has
``prod K_i / 256`` points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

#: Dimension of the lattice.
WIDTH = 8
#: Slots up to which every number is tried.
SEARCHED = 2**36


def slots_of(periods: Sequence[int]) -> int:
    """How many lattice points a torus has."""
    return math.prod(periods) // 256


def require_periods(periods: Sequence[int]) -> None:
    """Raise ValueError unless there are eight positive multiples of 4."""
    if len(periods) != WIDTH or any(k < 4 or k % 4 for k in periods):
        near = tuple(max(4, 4 * round(k / 4)) for k in periods) if len(periods) == WIDTH else (WIDTH,) * WIDTH
        raise ValueError(
            f"periods={tuple(periods)} was given; expected {WIDTH} multiples of 4, such as {near}: others would not "
            f"close the lattice."
        )


def periods_for(slots: int) -> tuple[int, ...] | None:
    """Periods of a torus of ``slots`` points, longest first and as even as can be; None where there are none.

    The longest is at most twice the shortest: a torus that is long in some directions and short in others would give
    a query's coordinates unequal say, and a short period meets the reach of a read.
    """
    if slots < 256 or slots % 256:
        return None
    return _even(slots // 256)


def near_sizes(slots: int) -> list[int]:
    """The nearest numbers of slots that a torus can have: below ``slots``, if there is one, and above.

    Beyond :data:`SEARCHED` the nearest powers of two, since others lie far apart there.
    """
    if slots > SEARCHED:
        return [1 << (slots.bit_length() - 1), 1 << slots.bit_length()]
    wanted = slots / 256
    below = next((256 * n for n in _counting(math.floor(wanted), -1) if _even(n)), None)
    above = next(256 * n for n in _counting(max(1, math.ceil(wanted)), 1) if _even(n))
    return sorted({above} if below is None else {below, above})


def _counting(start: int, step: int) -> Iterator[int]:
    while start >= 1:
        yield start
        start += step


@cache
def _even(product: int) -> tuple[int, ...] | None:
    """Eight periods ``4 k_i``, ``prod k_i = product``, the longest at most twice the shortest; the most even ones."""
    shortest = int(product ** (1 / WIDTH) + 1e-9)
    while shortest >= 1 and (2 * shortest) ** WIDTH >= product:
        found = _factors(product, shortest, 2 * shortest, WIDTH)
        if found is not None:
            return tuple(4 * k for k in reversed(found))
        shortest -= 1
    return None


def _factors(product: int, low: int, high: int, count: int) -> tuple[int, ...] | None:
    """``count`` rising factors from ``low`` to ``high`` of ``product``, or None."""
    if count == 0:
        return () if product == 1 else None
    for first in range(low, high + 1):
        if first**count > product:
            break
        if product % first == 0:
            rest = _factors(product // first, first, high, count - 1)
            if rest is not None:
                return (first, *rest)
    return None


def slot(points: Tensor, periods: Sequence[int]) -> Tensor:
    """The slot of each lattice point: equal for points that the torus makes one, different for all others.

    Args:
        points: int64 ``[..., 8]``, of the lattice.
        periods: eight multiples of 4.

    Returns:
        int64 ``[...]`` from 0 to ``slots_of(periods) - 1``.
    """
    parity = points[..., 0] % 2
    halves = points.new_tensor(periods) // 2
    y = torch.div(points - parity.unsqueeze(-1), 2, rounding_mode="floor") % halves
    # The sum of y is even, so the parity of the last is that of the others together and need not be kept.
    index = y[..., 0]
    for i in range(1, WIDTH - 1):
        index = index * (periods[i] // 2) + y[..., i]
    index = index * (periods[-1] // 4) + torch.div(y[..., -1], 2, rounding_mode="floor")
    return index * 2 + parity


def point(slots: Tensor, periods: Sequence[int]) -> Tensor:
    """The lattice point of each slot that lies in ``[0, K_i)``: the inverse of :func:`slot`.

    Args:
        slots: int64 ``[...]``.
        periods: eight multiples of 4.

    Returns:
        int64 ``[..., 8]``.
    """
    parity, index = slots % 2, torch.div(slots, 2, rounding_mode="floor")
    last, index = index % (periods[-1] // 4), torch.div(index, periods[-1] // 4, rounding_mode="floor")
    y = []
    for i in range(WIDTH - 2, -1, -1):
        y.append(index % (periods[i] // 2))
        index = torch.div(index, periods[i] // 2, rounding_mode="floor")
    y.reverse()
    known = torch.stack(y, -1)
    y.append(2 * last + known.sum(-1) % 2)
    return 2 * torch.stack(y, -1) + parity.unsqueeze(-1)
