"""The same by symmetry, for any device: folded, a place finds its 32 nearest points among 77 fixed vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vademecum.ops.lattice.naive import LARGE, kernel, nearest
from vademecum.ops.lattice.offsets import NEAREST, offsets
from vademecum.ops.lattice.torus import slot


class Folded(NamedTuple):
    """A place seen from its nearest point, in the polytope of :mod:`vademecum.ops.lattice.offsets`.

    Attributes:
        point: ``[N, 8]`` the nearest point; ``q[order] = point[order] + signs * place``.
        place: ``[N, 8]`` falling coordinates, all positive but perhaps the last.
        order: ``[N, 8]`` which coordinate of q each is.
        signs: ``[N, 8]``.
        finite: ``[N, 1]``; a place that is not is taken for the origin.
    """

    point: Tensor
    place: Tensor
    order: Tensor
    signs: Tensor
    finite: Tensor


def fold(q: Tensor, periods: Sequence[int]) -> Folded:
    """Fold ``q`` ``[N, 8]``."""
    finite = q.isfinite().all(-1, keepdim=True)
    q = torch.where(finite, q, torch.zeros_like(q))
    q = torch.where(q.abs() < LARGE, q, torch.remainder(q, q.new_tensor(periods)))
    point = nearest(q)
    left = q - point
    place, order = left.abs().sort(-1, descending=True)
    signs = torch.where(left.gather(-1, order) < 0, -1.0, 1.0).to(q.dtype)
    # Only even numbers of sign changes keep the lattice: an odd one is made even at the smallest coordinate.
    flip = signs.prod(-1, keepdim=True)
    return Folded(
        point,
        torch.cat([place[:, :-1], place[:, -1:] * flip], -1),
        order,
        torch.cat([signs[:, :-1], signs[:, -1:] * flip], -1),
        finite,
    )


def near(q: Tensor, periods: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Slots, weights and codes ``[N, 32]``: a code says which of the 77 vectors a point is away from the nearest."""
    table = torch.from_numpy(offsets()).to(q.device)
    wide = table.to(q.dtype)
    folded = fold(q, periods)
    # Sums of products and not a product of matrices, which some devices compute in fewer digits.
    far = wide.square().sum(-1) - 2 * (folded.place.unsqueeze(1) * wide).sum(-1)
    codes = far.topk(NEAREST, largest=False).indices
    weights = kernel((folded.place.unsqueeze(1) - wide[codes]).square().sum(-1))
    steps = folded.signs.long().unsqueeze(1) * table[codes]
    points = folded.point.long().unsqueeze(1).repeat(1, NEAREST, 1)
    points.scatter_add_(-1, folded.order.unsqueeze(1).expand_as(points), steps)
    weights = torch.where(folded.finite, weights, torch.full_like(weights, torch.nan))
    return slot(points, periods), weights, codes.to(torch.uint8)


def gradient(grad: Tensor, q: Tensor, codes: Tensor, periods: Sequence[int]) -> Tensor:
    """Gradient ``[N, 8]`` of ``q`` from that of the weights, ``dw/dq = -(1 - d^2/8)^3 (q - point)``."""
    folded = fold(q, periods)
    away = folded.place.unsqueeze(1) - torch.from_numpy(offsets()).to(q)[codes.long()]
    slope = (1 - away.square().sum(-1) / 8).clamp_min(0) ** 3
    total = -((grad * slope).unsqueeze(-1) * away).sum(1)
    out = torch.zeros_like(q).scatter(-1, folded.order, folded.signs * total)
    return torch.where(folded.finite, out, torch.full_like(out, torch.nan))
