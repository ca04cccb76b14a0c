"""Counting loads over a whole optimizer step: all its micro-batches, all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vademecum.memory.exact import ExactBuffers


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of every process's ``values``, NaN left out: a process without tokens has nothing to say.

    Where there is one process, the values themselves.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return values
    said = values.isfinite()
    both = torch.stack([torch.where(said, values, 0.0), said.to(values.dtype)])
    dist.all_reduce(both)
    return both[0] / both[1]


class Tally(ExactBuffers):
    """Assignments per expert since the last optimizer step.

    A step is noticed by the router's weight, which it changes: its sum and its sum of squares are compared, on the
    device and without waiting for it. So gradient accumulation needs no word from the training loop. (A tensor's
    version counter would not do: fused optimizers leave it alone.) A router that does not train has no steps; each
    forward then counts as one.

    Attributes:
        counts: ``[E]`` fp32 buffer; half precision would stop counting at 2048.
        seen: ``[2]`` fp64 buffer, sum and sum of squares of the weight that ``counts`` began with. Both are saved with
            the memory, so that a resumed run goes on exactly.
    """

    counts: Tensor
    seen: Tensor

    def __init__(self, experts: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(experts, dtype=torch.float32, device=device))
        self.register_buffer("seen", torch.zeros(2, dtype=torch.float64, device=device))

    @torch.no_grad()
    def begin(self, router: nn.Parameter) -> Tensor:
        """Start a forward: where a step lies behind, start counting anew and return its counts ``[E]``, else zeros."""
        weight = router.detach().double()
        now = torch.stack([weight.sum(), weight.square().sum()])
        changed = (now != self.seen).any() if router.requires_grad else torch.ones((), dtype=torch.bool)
        self.seen.copy_(now)
        finished = torch.where(changed.to(self.counts.device), self.counts, 0.0)
        self.counts.sub_(finished)
        return finished

    @torch.no_grad()
    def add(self, counts: Tensor) -> Tensor:
        """Add a forward's counts, those of all processes together; returns the step's so far."""
        counts = counts.detach().clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        return self.counts.add_(counts).clone()
