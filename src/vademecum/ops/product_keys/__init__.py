"""Product-key search: the k best of n * n slots by looking at 2 * n keys (arXiv:1907.05242).

A slot's score is the sum of two halves, ``s[i*n + j] = q1 . K1[i] + q2 . K2[j]``, so the k best slots are among the k
best of each half, and among the pairs of ranks (i, j) with ``(i + 1)(j + 1) <= k``, since that many sums are at least
as large. Scores of both halves live for a block of tokens at a time; a backward needs the chosen keys alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vademecum.ops import specified
from vademecum.ops.mix.cpu import CHUNKS, SMALL, _share_out
from vademecum.ops.product_keys import bag, naive
from vademecum.ops.weighted import scattered, weighted_sum

__all__ = ["search"]

#: Scores of halves that are held at once (4 MiB of fp32).
AT_ONCE = 2**20


def search(query: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best slots of every head, exactly as a search through all n * n would find them.

    Args:
        query: ``[N, H, 2 * d]``.
        keys: ``[H, 2, n, d]``, both halves' keys of every head.
        k: how many, from 1 to n * n.

    Returns:
        ``scores`` ``[N, H, k]`` in fp32 or wider, falling, differentiable in both; ``slots`` int64 ``[N, H, k]``, slot
        ``i * n + j`` for key i of the first half and j of the second. Of slots with equal scores any may be taken; a
        query with a NaN in it has NaN scores.

    Raises:
        ValueError: shapes that do not belong together, or k out of range.
    """
    if query.dim() != 3 or keys.dim() != 4 or keys.shape[1] != 2 or (
        (query.shape[1], query.shape[2]) != (keys.shape[0], 2 * keys.shape[3])
    ):  # fmt: skip
        raise ValueError(
            f"query {list(query.shape)} and keys {list(keys.shape)} were given; expected [N, H, 2*d] and [H, 2, n, d]."
        )
    if not 1 <= k <= keys.shape[2] ** 2:
        raise ValueError(
            f"k={k} was given for {keys.shape[2]} x {keys.shape[2]} slots; write 1 to {keys.shape[2] ** 2}."
        )
    if specified():
        return naive.search(query, keys, k)
    scores, slots = _search(query, keys, k)
    return scores, slots


@torch.library.custom_op("vademecum::search_product_keys", mutates_args=())
def _search(query: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    heads, _, count, half = keys.shape
    wide = _wide(query, keys)
    scores = torch.empty(len(query), heads, k, dtype=wide, device=query.device)
    slots = torch.empty(len(query), heads, k, dtype=torch.int64, device=query.device)
    table = keys.detach().to(wide).reshape(2 * heads, count, half).transpose(1, 2)
    parts = query.detach().reshape(len(query), 2 * heads, half).transpose(0, 1)
    tokens = max(1, AT_ONCE // (2 * heads * count))
    with torch.autocast(query.device.type, enabled=False):
        for start in range(0, len(query), tokens):
            halves = torch.bmm(parts[:, start : start + tokens].to(wide), table)
            if query.device.type == "cpu" and wide == torch.float32:
                _select(halves, start, scores, slots)
            else:
                here = slice(start, start + tokens)
                scores[here], slots[here] = bag.select(halves, k)
    return scores, slots


def _select(halves: Tensor, start: int, scores: Tensor, slots: Tensor) -> None:
    # Numba takes half a second to import, so only once it is needed.
    from vademecum.ops.mix.kernels import token_bounds
    from vademecum.ops.product_keys import kernels

    threads = torch.get_num_threads() if halves.numel() > SMALL // 8 else 1
    bounds = token_bounds(halves.shape[1], CHUNKS * threads if threads > 1 else 1)
    _share_out(threads, bounds, kernels.select, halves.numpy(), start, scores.numpy(), slots.numpy())


@_search.register_fake
def _(query: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (query.shape[0], keys.shape[0], k)
    return query.new_empty(shape, dtype=_wide(query, keys)), query.new_empty(shape, dtype=torch.int64)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, keys, _ = inputs
    ctx.save_for_backward(query, keys, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradient(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, Tensor | None, None]:
    query, keys, slots = ctx.saved_tensors
    heads, _, count, half = keys.shape
    above = torch.div(slots, count, rounding_mode="floor")
    # A half's keys of all heads as the rows of one table, from which a query reads k.
    first = torch.arange(0, heads * count, count, device=slots.device).view(1, heads, 1)
    weights = grad.reshape(-1, grad.shape[-1])
    of_query = torch.empty_like(query) if ctx.needs_input_grad[0] else None
    of_keys = torch.empty_like(keys) if ctx.needs_input_grad[1] else None
    for side, chosen in enumerate((above, slots - above * count)):
        places, here = (chosen + first).view(weights.shape), slice(side * half, (side + 1) * half)
        if of_query is not None:
            table = keys.detach()[:, side].reshape(-1, half).to(grad.dtype)
            of_query[..., here] = weighted_sum(table, places, weights).view(len(query), heads, half)
        if of_keys is not None:
            parts = query.detach()[..., here].reshape(-1, half).to(grad.dtype)
            of_keys[:, side] = scattered(places, weights, parts, heads * count).view(heads, count, half)
    return of_query, of_keys, None


_search.register_autograd(_gradient, setup_context=_keep)


def _wide(query: Tensor, keys: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(query.dtype, keys.dtype), torch.float32)
