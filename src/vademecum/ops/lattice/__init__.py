"""Which lattice points a place in eight dimensions is near, and how near (lattice memory, arXiv:2107.03474).

A table's rows are the points of the lattice 2*E8 on a torus. A place reads the rows of the points around it, weighed by
``w = max(0, 1 - d^2 / 8) ** 4``. On a point that point alone has a weight, 1; in the deepest hole 16 points have 1/16
each; in between about 65 have some, of which the 32 nearest are read. All weights sum to between 0.851 and 1, those
of the 32 to 99.5 % of that on average, and to 3/4 at least, half-way between two neighbours. They are not
divided by their sum, so that weights and their first derivatives change smoothly, but for the little that is cut off.
Finding the points takes the same time however large the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vademecum.ops import specified
from vademecum.ops.lattice import cpu, folded, naive
from vademecum.ops.lattice.offsets import NEAREST
from vademecum.ops.lattice.torus import WIDTH, near_sizes, periods_for, point, require_periods, slot, slots_of

__all__ = ["NEAREST", "WIDTH", "near", "near_sizes", "periods_for", "point", "slot", "slots_of"]


def near(q: Tensor, periods: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The 32 points nearest to each place, wrapped onto the torus.

    Args:
        q: ``[N, 8]``, any numbers: whole periods make no difference.
        periods: of the torus, eight multiples of 4.

    Returns:
        ``slots`` int64 ``[N, 32]`` from 0 to ``prod(periods) / 256 - 1``, and their ``weights`` ``[N, 32]`` in fp32 or
        wider, in any order; differentiable in q through the weights. Of points equally far at the end of the 32 any
        may be taken. Where a period is 4 a slot can come twice, as two points that the torus makes one. A place that
        is not finite has weights of NaN.

    Raises:
        ValueError: a shape, a type or periods that the lattice cannot take.
    """
    if q.dim() != 2 or q.shape[1] != WIDTH or not q.is_floating_point():
        raise ValueError(f"q {list(q.shape)} of {q.dtype} was given; expected [N, {WIDTH}] of a floating-point type.")
    require_periods(periods)
    # Half a lattice step is a bf16's last digit at 128 already, so places are always found in fp32.
    q = q.to(torch.promote_types(q.dtype, torch.float32))
    if specified():
        return naive.near(q, periods)
    slots, weights, _ = _near(q, list(periods))
    return slots, weights


# Operators, whose shapes a compiler sees and not their loops, so that a graph with a memory in it stays whole.
@torch.library.custom_op("vademecum::near_lattice", mutates_args=())
def _near(q: Tensor, periods: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    slots, weights, codes = _path(q).near(q.contiguous(), periods)
    return slots, weights, codes


@torch.library.custom_op("vademecum::near_lattice_backward", mutates_args=())
def _near_backward(grad: Tensor, q: Tensor, codes: Tensor, periods: Sequence[int]) -> Tensor:
    out: Tensor = _path(q).gradient(grad.contiguous(), q.contiguous(), codes, periods)
    return out


@_near.register_fake
def _(q: Tensor, periods: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    shape = (q.shape[0], NEAREST)
    return q.new_empty(shape, dtype=torch.int64), q.new_empty(shape), q.new_empty(shape, dtype=torch.uint8)


@_near_backward.register_fake
def _(grad: Tensor, q: Tensor, codes: Tensor, periods: Sequence[int]) -> Tensor:
    return torch.empty_like(q)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, ctx.periods = inputs
    # 32 bytes a place: which points they were, not where they are.
    ctx.save_for_backward(q, output[2])
    ctx.mark_non_differentiable(output[0], output[2])


def _gradient(ctx: Any, _: Any, grad: Tensor, __: Any) -> tuple[Tensor, None]:
    q, codes = ctx.saved_tensors
    return _near_backward(grad, q, codes, ctx.periods), None


_near.register_autograd(_gradient, setup_context=_keep)


def _path(q: Tensor) -> Any:
    return cpu if q.device.type == "cpu" else folded
