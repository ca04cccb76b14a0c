"""Sums of rows under weights, and dot products with rows, where every token has places of its own in a table.

Both read rows where they lie: nothing of size tokens x places x width is made in either direction, the gradient of
``rows`` is as large as ``rows``, and every sum is taken in one order, so that results are the same every time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vademecum.ops import specified
from vademecum.ops.weighted import bag, cpu, naive

__all__ = ["Lent", "dots", "scattered", "weighted_sum"]


class Lent(NamedTuple):
    """Where the gradient of rows goes, if not to the rows themselves: a table is read where it lies, and only the rows
    that were read have a gradient.

    Attributes:
        leaf: ``[V, ...]``, one for each of the distinct rows that are read; its values are never looked at.
        places: ``[N, K]``, from 0 to V - 1, which of them each read is.
    """

    leaf: Tensor
    places: Tensor


def weighted_sum(rows: Tensor, places: Tensor, weights: Tensor, lent: Lent | None = None) -> Tensor:
    """``out[n] = sum_k weights[n,k] * rows[places[n,k]]``.

    Args:
        rows: ``[U, D]``.
        places: int64 ``[N, K]``, from 0 to U - 1.
        weights: ``[N, K]``.
        lent: where the gradient of ``rows`` goes; fast paths alone know of it, and no compiler.

    Returns:
        ``[N, D]`` in the dtype of ``weights``; the sum is taken in the wider of both dtypes, or in fp32.

    Raises:
        ValueError: shapes or types that do not belong together.
        IndexError: a place that ``rows`` does not have.
    """
    _require(rows, places, weights, "weights", places.shape)
    if specified():
        return naive.weighted_sum(rows, places, weights)
    if lent is not None:
        summed: Tensor = _LentSum.apply(lent.leaf, lent.places, weights, rows, places)  # type: ignore[no-untyped-call]
        return summed
    out: Tensor = _summed(rows, places, weights)
    return out


def dots(rows: Tensor, places: Tensor, x: Tensor) -> Tensor:
    """``out[n,k] = rows[places[n,k]] . x[n]``: the same reads as :func:`weighted_sum`, the other way round.

    Args:
        rows: ``[U, D]``.
        places: int64 ``[N, K]``, from 0 to U - 1.
        x: ``[N, D]``.

    Returns:
        ``[N, K]`` in the dtype of ``x``; the sum is taken in the wider of both dtypes, or in fp32.

    Raises:
        ValueError: shapes or types that do not belong together.
        IndexError: a place that ``rows`` does not have.
    """
    _require(rows, places, x, "x", (places.shape[0], *rows.shape[1:]))
    if specified():
        return naive.dots(rows, places, x)
    out: Tensor = _dotted(rows, places, x)
    return out


def scattered(places: Tensor, weights: Tensor, x: Tensor, count: int) -> Tensor:
    """``out[r] = sum of weights[n,k] * x[n]`` over the n, k with ``places[n,k] == r``: the gradient of the rows.

    Args:
        places: int64 ``[N, K]``, from 0 to ``count`` - 1.
        weights: ``[N, K]``.
        x: ``[N, D]``.
        count: U, how many rows there are.

    Returns:
        ``[U, D]`` in fp32 or wider. It has no gradient of its own.
    """
    out: Tensor = _scattered(places, weights, x, count)
    return out


def _path(*tensors: Tensor) -> Any:
    return cpu if cpu.supports(*tensors) else bag


# Operators, whose shapes a compiler sees and not their loops, so that a graph with a memory in it stays whole.
@torch.library.custom_op("vademecum::weighted_sum", mutates_args=())
def _summed(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    _require_within(places, rows)
    path = _path(rows, weights)
    out: Tensor = path.summed(rows.contiguous(), places.contiguous(), weights.contiguous())
    return out


@torch.library.custom_op("vademecum::dots", mutates_args=())
def _dotted(rows: Tensor, places: Tensor, x: Tensor) -> Tensor:
    _require_within(places, rows)
    out: Tensor = _path(rows, x).dotted(rows.contiguous(), places.contiguous(), x.contiguous())
    return out


@torch.library.custom_op("vademecum::scattered", mutates_args=())
def _scattered(places: Tensor, weights: Tensor, x: Tensor, count: int) -> Tensor:
    path = _path(weights, x)
    out: Tensor = path.scattered(places.contiguous(), weights.contiguous(), x.contiguous(), count)
    return out


@_summed.register_fake
def _(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    return weights.new_empty(places.shape[0], rows.shape[1])


@_dotted.register_fake
def _(rows: Tensor, places: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(places.shape)


@_scattered.register_fake
def _(places: Tensor, weights: Tensor, x: Tensor, count: int) -> Tensor:
    wide = torch.promote_types(torch.promote_types(weights.dtype, x.dtype), torch.float32)
    return x.new_empty(count, x.shape[1], dtype=wide)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _summed_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
    rows, places, weights = ctx.saved_tensors
    of_rows = _scattered(places, weights, grad, len(rows)).to(rows.dtype) if ctx.needs_input_grad[0] else None
    of_weights = _dotted(rows, places, grad).to(weights.dtype) if ctx.needs_input_grad[2] else None
    return of_rows, None, of_weights


def _dotted_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
    rows, places, x = ctx.saved_tensors
    of_rows = _scattered(places, grad, x, len(rows)).to(rows.dtype) if ctx.needs_input_grad[0] else None
    of_x = _summed(rows, places, grad).to(x.dtype) if ctx.needs_input_grad[2] else None
    return of_rows, None, of_x


_summed.register_autograd(_summed_gradient, setup_context=_keep)
_dotted.register_autograd(_dotted_gradient, setup_context=_keep)


class _LentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: Tensor, inside: Tensor, weights: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        ctx.shape = leaf.shape
        ctx.save_for_backward(inside, weights, rows, places)
        out: Tensor = _summed(rows, places, weights)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inside, weights, rows, places = ctx.saved_tensors
        of_weights = _dotted(rows, places, grad).to(weights.dtype) if ctx.needs_input_grad[2] else None
        return _scattered(inside, weights, grad, ctx.shape[0]).view(ctx.shape), None, of_weights, None, None


def _require(rows: Tensor, places: Tensor, other: Tensor, name: str, shape: tuple[int, ...]) -> None:
    if rows.dim() != 2 or places.dim() != 2 or places.dtype != torch.int64 or other.shape != tuple(shape):
        raise ValueError(
            f"rows {list(rows.shape)}, places {list(places.shape)} of {places.dtype} and {name} {list(other.shape)} "
            f"were given; expected rows [U, D], places [N, K] of torch.int64 and {name} "
            f"{'[N, K]' if name == 'weights' else '[N, D]'}."
        )


def _require_within(places: Tensor, rows: Tensor) -> None:
    # On a CPU the loops look nothing up; a GPU's own operators do.
    if places.device.type == "cpu" and places.numel():
        low, high = (int(end) for end in places.aminmax())
        if low < 0 or high >= len(rows):
            raise IndexError(f"places {low} to {high} were given, but there are rows 0 to {len(rows) - 1}.")
