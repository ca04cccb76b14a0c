"""Where assignments are computed: in this process, or by whichever process holds the expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from vademecum.experts.routes import Routes
from vademecum.ops.experts import Networks, run_experts
from vademecum.ops.experts.networks import Segments


class Dispatch(Protocol):
    """Brings tokens to their experts and the results back."""

    def __call__(self, hidden: Tensor, routes: Routes, networks: Networks) -> Tensor:
        """``[N, d]`` through each token's experts, weighed and added: ``[N, d]``; ``networks`` are those held here."""


@dataclass(frozen=True)
class Local:
    """All experts are here."""

    def __call__(self, hidden: Tensor, routes: Routes, networks: Networks) -> Tensor:
        done: Tensor = run_experts(hidden, routes.chosen, routes.weights, networks)
        return done


@dataclass(frozen=True)
class AllToAll:
    """Each of P processes holds E/P experts, in the order of its rank, and tokens travel to them and back.

    Assignments are sorted by expert, so by owner too. Numbers of assignments are exchanged first, then the tokens, once
    for each assignment; those to no expert (-1) stay at home. The owner computes all that arrived, and the results go
    back the same way, to be weighed and added in fp32 and in the order of a token's choices: two runs give the same
    bits. (Order of steps as in torchtitan's all-to-all token dispatcher; weights after the experts, since routers stay
    at home.)

    Every process must come here equally often, in forward and in backward, with any number of tokens, none included.
    A layer that is recomputed in the backward exchanges again, which all processes then do at the same point.

    Gradients are made for a caller who *averages* those of the processes, as DistributedDataParallel does. An expert's
    gradient arrives here as the sum over the tokens of all processes and is not averaged any more, so it is divided
    by P; what goes back to the tokens is not.

    Attributes:
        group: the processes; None for all.
    """

    group: dist.ProcessGroup | None

    # How many tokens go where is nothing that a compiled graph can know.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, hidden: Tensor, routes: Routes, networks: Networks) -> Tensor:
        size, held = dist.get_world_size(self.group), len(networks)
        tokens, top_k = routes.chosen.shape
        segments = Segments.of(routes.chosen, size * held)
        leaving = torch.tensor(segments.counts, device=hidden.device)
        arriving = torch.empty_like(leaving)
        dist.all_to_all_single(arriving, leaving, group=self.group)
        out, back = (counts.view(size, held).sum(1).tolist() for counts in (leaving, arriving))

        rows = _Spread.apply(hidden, segments, top_k)  # type: ignore[no-untyped-call]
        there = _Exchange.apply(rows, out, back, self.group, float(size))  # type: ignore[no-untyped-call]
        # What arrived is sorted by sender, then by expert.
        expert = torch.arange(held, device=hidden.device).repeat(size).repeat_interleave(arriving)
        done = run_experts(there, expert.unsqueeze(1), there.new_ones(len(there), 1), networks)
        home = _Exchange.apply(done, back, out, self.group, 1 / size)  # type: ignore[no-untyped-call]

        width = home.shape[1]
        by_choice = home.new_zeros(tokens * top_k, width).index_copy(0, segments.order, home)
        total: Tensor = (by_choice.view(tokens, top_k, width) * routes.weights.unsqueeze(-1)).sum(1)
        return total.to(hidden.dtype)

    def __deepcopy__(self, memo: Any) -> AllToAll:
        return self  # a copy of a model talks to the same processes


class _Spread(torch.autograd.Function):
    """A row for each assignment, ``[A, d]`` from ``[N, d]``; gradients are added in the order of a token's choices."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, segments: Segments, top_k: int) -> Tensor:
        ctx.order, ctx.shape = segments.order, (len(hidden), top_k, hidden.shape[1])
        return hidden.index_select(0, segments.token)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, top_k, width = ctx.shape
        by_choice = grad.new_zeros(tokens * top_k, width).index_copy_(0, ctx.order, grad)
        return by_choice.view(ctx.shape).sum(1), None, None


class _Exchange(torch.autograd.Function):
    """Rows to other processes, ``out[p]`` of them to process p; their gradients come back multiplied by ``factor``."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, out: list[int], back: list[int], group: dist.ProcessGroup | None, factor: float
    ) -> Tensor:
        ctx.way, ctx.factor = (back, out, group), factor
        return _exchange(rows, out, back, group)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _exchange(grad, *ctx.way).mul_(ctx.factor), None, None, None, None


def _exchange(rows: Tensor, out: list[int], back: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Send ``out[p]`` rows to each process p, and receive ``back[p]`` from it."""
    received = rows.new_empty(sum(back), rows.shape[1])
    dist.all_to_all_single(received, rows.contiguous(), back, out, group=group)
    return received
