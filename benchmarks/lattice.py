"""Finding rows by lattice points, forward and backward on a CPU, over two plain forms and over product keys.

``python benchmarks/lattice.py`` files the comparison, ``--small`` prints one of sizes that take seconds and files
nothing. Every form takes ready queries to slots and weights, and gradients of the weights back to the queries:

- ``ours``: the compiled loops;
- ``folded``: the same seven steps in plain PyTorch, 77 vectors a place;
- ``listed``: the specification, which weighs 2,401 points a place;
- ``product_keys``: the search of arXiv:1907.05242 in plain PyTorch, with gradients of its keys, which the lattice has
  none of; ``our_product_keys`` is this package's own.

All find rows for the same tokens in tables of as many slots, and read as many values: 32 heads of 32 rows 64 wide, or 4
heads of 32 rows 512 wide, for a hidden width of 512. Each lattice form must give the weights of the first.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable

import torch
from common import file_result, interleaved, ratio
from torch import Tensor

from vademecum import ops
from vademecum.ops.lattice import NEAREST, folded, naive, near, periods_for
from vademecum.ops.product_keys import search

LATTICE_HEADS, KEY_HEADS, HALF = 32, 4, 64
SLOTS = (2**16, 2**20)


class Folded(torch.autograd.Function):
    """The seven steps in plain PyTorch; autograd through them would keep all that they make."""

    @staticmethod
    def forward(ctx, q: Tensor, periods: tuple[int, ...]) -> Tensor:
        _, weights, codes = folded.near(q, periods)
        ctx.save_for_backward(q, codes)
        ctx.periods = periods
        return weights

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return folded.gradient(grad, *ctx.saved_tensors, ctx.periods), None


def plain_product_keys(query: Tensor, keys: Tensor) -> Tensor:
    """Weights ``[N, H, 32]`` of ``query`` ``[N, H, 2 * d]`` against ``keys`` ``[H, 2, n, d]``."""
    halves = torch.einsum("nhcd,hckd->nhck", query.unflatten(-1, (2, HALF)), keys)
    best = halves.topk(NEAREST)
    sums = best.values[:, :, 0, :, None] + best.values[:, :, 1, None, :]
    scores, at = sums.flatten(2).topk(NEAREST)
    of_first = best.indices[:, :, 0].gather(-1, at // NEAREST)
    _slots = of_first * keys.shape[2] + best.indices[:, :, 1].gather(-1, at % NEAREST)
    return scores.softmax(-1)


def steps_of(tokens: int, slots: int) -> dict[str, Callable[[], Tensor]]:
    """A step of every form; each returns the weights it found."""
    generator = torch.Generator().manual_seed(0)
    periods = periods_for(slots)
    assert periods is not None
    places = 0.5 * torch.tensor(periods) * torch.randn(tokens * LATTICE_HEADS, 8, generator=generator)
    side = math.isqrt(slots)
    query = torch.randn(tokens, KEY_HEADS, 2 * HALF, generator=generator)
    keys = torch.randn(KEY_HEADS, 2, side, HALF, generator=generator)

    def both_ways(run: Callable[..., Tensor], *given: Tensor) -> Tensor:
        leaves = [one.detach().requires_grad_() for one in given]
        weights = run(*leaves)
        weights.backward(torch.ones_like(weights))
        return weights.detach()

    def listed() -> Tensor:
        # In pieces: what it makes at once for all places would not fit.
        with ops.backend("naive"):
            pieces = [both_ways(lambda q: naive.near(q, periods)[1], part) for part in places.split(512)]
        return torch.cat(pieces)

    return {
        "ours": lambda: both_ways(lambda q: near(q, periods)[1], places),
        "folded": lambda: both_ways(lambda q: Folded.apply(q, periods), places),
        "listed": listed,
        "product_keys": lambda: both_ways(plain_product_keys, query, keys),
        "our_product_keys": lambda: both_ways(lambda q, k: search(q, k, NEAREST)[0].softmax(-1), query, keys),
    }


def require_same(steps: dict[str, Callable[[], Tensor]]) -> None:
    """Stop unless the forms of the same thing find the same."""
    for name, other in (("folded", "ours"), ("listed", "ours"), ("our_product_keys", "product_keys")):
        one, two = (steps[form]().sort(-1).values for form in (name, other))
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def measured(tokens: int, slots: int, rounds: int) -> dict[str, object]:
    """Milliseconds of each form and speed of ours over it."""
    require_same(steps_of(8, slots))
    steps = steps_of(tokens, slots)
    listed = steps_of(max(1, tokens // 64), slots)["listed"]
    steps.pop("listed")
    taken = interleaved(steps, rounds=rounds)
    # So slow that a 64th of the tokens has to do.
    taken["listed"] = [64 * seconds for seconds in interleaved({"listed": listed}, rounds=rounds, warm_up=1)["listed"]]
    return {
        "milliseconds": {name: 1e3 * statistics.median(times) for name, times in taken.items()},
        "speed_of_ours_over": {name: ratio(taken, "ours", name) for name in taken if name != "ours"},
    }


def main() -> None:
    small = "--small" in sys.argv
    tokens, rounds = (64, 3) if small else (2048, 9)
    found = {f"slots_{slots}": measured(tokens, slots, rounds) for slots in (SLOTS[:1] if small else SLOTS)}
    result = {"tokens": tokens, "lattice_heads": LATTICE_HEADS, "key_heads": KEY_HEADS, "key_dim": 2 * HALF, **found}
    if small:
        print(json.dumps(result, indent=2))
    else:
        file_result("lattice", result)


if __name__ == "__main__":
    main()
