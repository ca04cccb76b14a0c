"""Neurons that are rows of a table: their weights in and out lie side by side, and learn in one buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vademecum.ops import specified
from vademecum.ops.weighted import Lent, dots, scattered, weighted_sum

Activation = Callable[[Tensor], Tensor]


def neurons(
    rows: Tensor, places: Tensor, x: Tensor, weights: Tensor, act: Activation, lent: Lent | None = None
) -> Tensor:
    """``out[n] = sum_k weights[n,k] * act(rows[p,0] . x[n]) * rows[p,1]`` with ``p = places[n,k]``.

    Args:
        rows: ``[U, 2, D]``, of each neuron its weights in and its weights out.
        places: int64 ``[N, K]``, from 0 to U - 1.
        x: ``[N, D]``.
        weights: ``[N, K]``.
        act: element by element, without parameters.
        lent: where the gradient of ``rows`` goes, as in :func:`vademecum.ops.weighted.weighted_sum`.

    Returns:
        ``[N, D]`` in the dtype of ``weights``. Nothing of size N x K x D is made in either direction, and one gradient
        of ``rows`` where two operations would make two and add them.

    Raises:
        ValueError: shapes or types that do not belong together.
        IndexError: a place that ``rows`` does not have.
    """
    # A row's two vectors lie one behind the other: in a table of vectors they are at 2p and 2p + 1.
    table, places, x = rows.reshape(-1, rows.shape[-1]), 2 * places, x.to(weights.dtype)
    learns = torch.is_grad_enabled() and (rows.requires_grad or lent is not None)
    if specified() or torch.compiler.is_compiling() or not learns:
        return weighted_sum(table, places + 1, weights * act(dots(table, places, x)))
    leaf, inside = (table, places) if lent is None else (lent.leaf.reshape(-1, rows.shape[-1]), 2 * lent.places)
    out: Tensor = _Neurons.apply(leaf, inside, x, weights, table, places, act)  # type: ignore[no-untyped-call]
    return out


class _Neurons(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        leaf: Tensor,
        inside: Tensor,
        x: Tensor,
        weights: Tensor,
        table: Tensor,
        places: Tensor,
        act: Activation,
    ) -> Tensor:
        ctx.act, ctx.count, ctx.dtype = act, len(leaf), leaf.dtype
        inner = dots(table, places, x)
        ctx.save_for_backward(inside, x, weights, table.detach(), places, inner)
        return weighted_sum(table, places + 1, weights * act(inner))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inside, x, weights, table, places, inner = ctx.saved_tensors
        felt = dots(table, places + 1, grad)
        with torch.enable_grad():
            free = inner.detach().requires_grad_()
            active = ctx.act(free)
            (into,) = torch.autograd.grad(active, free, felt * weights)
        active = active.detach()
        of_x = weighted_sum(table, places, into) if ctx.needs_input_grad[2] else None
        both = torch.cat([into, weights * active])
        of_leaf = scattered(torch.cat([inside, inside + 1]), both, torch.cat([x, grad]), ctx.count)
        return of_leaf.to(ctx.dtype), None, of_x, felt * active, None, None, None
