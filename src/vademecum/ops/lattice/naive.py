"""The specification: list every lattice point within reach, weigh each, keep the 32 heaviest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vademecum.ops.lattice.offsets import NEAREST, short_vectors
from vademecum.ops.lattice.torus import slot

#: Size from which coordinates are wrapped before anything else, because they have few digits left behind the point.
LARGE = 2.0**20


def near(q: Tensor, periods: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Slots and weights ``[N, 32]`` of ``q`` ``[N, 8]`` in fp32 or wider, heaviest first."""
    finite = q.isfinite().all(-1, keepdim=True)
    q = torch.where(finite, q, torch.zeros_like(q))
    q = torch.where(q.abs() < LARGE, q, torch.remainder(q, q.new_tensor(periods)))
    with torch.no_grad():
        shell = torch.from_numpy(short_vectors()).to(q.device)
        points = nearest(q).long().unsqueeze(-2) + shell
        far = (q.unsqueeze(-2) - points).square().sum(-1)
        best = far.topk(NEAREST, largest=False).indices
        points = points.gather(1, best.unsqueeze(-1).expand(-1, -1, 8))
    weights = kernel((q.unsqueeze(-2) - points).square().sum(-1))
    return slot(points, periods), torch.where(finite, weights, torch.full_like(weights, torch.nan))


def kernel(far: Tensor) -> Tensor:
    """Weight at squared distance ``far``: ``max(0, 1 - far / 8) ** 4``, about ``exp(-far / 2)``."""
    return (1 - far / 8).clamp_min(0) ** 4


def nearest(q: Tensor) -> Tensor:
    """The lattice point nearest to each ``q`` ``[..., 8]``: the even ones' or the odd ones', whichever is nearer."""
    even, odd = 2 * _whole(q / 2), 2 * _whole((q - 1) / 2) + 1
    is_even = (q - even).square().sum(-1, keepdim=True) <= (q - odd).square().sum(-1, keepdim=True)
    return torch.where(is_even, even, odd)


def _whole(x: Tensor) -> Tensor:
    """The nearest whole numbers with an even sum; where rounding gives an odd one, the least sure goes elsewhere."""
    near = x.round()
    left = x - near
    at = left.abs().argmax(-1, keepdim=True)
    step = torch.where(left.gather(-1, at) < 0, -1.0, 1.0).to(x.dtype)
    return torch.where((near.sum(-1, keepdim=True) % 2).bool(), near.scatter_add(-1, at, step), near)
