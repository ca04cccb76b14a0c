"""What stands between an expert's two products: activation and gate, forward and backward, outside of autograd."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vademecum.ops.experts.networks import Networks


class Middle(Protocol):
    """Made once for a pass over all experts, called piece by piece."""

    def forward(self, inner: Tensor) -> Tensor:
        """``[n, f]`` from the up projection's output ``[n, f or 2f]``."""

    def backward(self, inner: Tensor, grad: Tensor) -> Tensor:
        """The gradient of ``inner`` from that of the last :meth:`forward`'s result; may overwrite ``grad``."""


class AnyMiddle:
    """Any activation, by a small graph of its own for every piece."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self._graph: tuple[Tensor, Tensor] | None = None

    def forward(self, inner: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = inner.detach().requires_grad_()
            self._graph = (leaf, self.networks.middle(leaf))
        return self._graph[1].detach()

    def backward(self, inner: Tensor, grad: Tensor) -> Tensor:
        assert self._graph is not None
        leaf, done = self._graph
        return torch.autograd.grad(done, leaf, grad)[0]


class GatedSiLU:
    """The commonest form by hand, in buffers that every piece uses again: what is small stays in the cache."""

    def __init__(self, rows: int, width: int, like: Tensor) -> None:
        self._activated, self._done = like.new_empty(rows, width), like.new_empty(rows, width)
        self._grad = like.new_empty(rows, 2 * width)

    def forward(self, inner: Tensor) -> Tensor:
        gate, linear = inner.chunk(2, dim=-1)
        activated = torch.ops.aten.silu.out(gate, out=self._activated[: len(inner)])
        return torch.mul(activated, linear, out=self._done[: len(inner)])

    def backward(self, inner: Tensor, grad: Tensor) -> Tensor:
        gate, linear = inner.chunk(2, dim=-1)
        of_inner = self._grad[: len(inner)]
        of_gate, of_linear = of_inner.chunk(2, dim=-1)
        torch.mul(grad, self._activated[: len(inner)], out=of_linear)
        torch.ops.aten.silu_backward.grad_input(grad.mul_(linear), gate, grad_input=of_gate)
        return of_inner


def middle_of(networks: Networks, rows: int) -> Middle:
    """The fastest form for these networks, for pieces of up to ``rows`` rows."""
    if networks.gated and (isinstance(networks.act, nn.SiLU) or networks.act is F.silu):
        return GatedSiLU(rows, networks.down.shape[1], networks.down)
    return AnyMiddle(networks)
