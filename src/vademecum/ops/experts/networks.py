"""What expert compute works on: stacked feed-forward networks, and assignments sorted by expert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Networks:
    """E feed-forward networks of one form: ``down(act(gate) * linear)`` or, ungated, ``down(act(inner))``.

    Attributes:
        up: ``[E, d, f]``, gated ``[E, d, 2f]`` with the gate's half first.
        down: ``[E, f, d]``.
        up_bias: ``[E, f or 2f]``, or None.
        down_bias: ``[E, d]``, or None; both or neither.
        act: the activation, elementwise.
        gated: whether ``up`` puts out a gate and a linear branch.
    """

    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    act: Callable[[Tensor], Tensor]
    gated: bool

    def __len__(self) -> int:
        return self.up.shape[0]

    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The parameters: up, down and their biases."""
        return self.up, self.down, self.up_bias, self.down_bias

    def to(self, dtype: torch.dtype) -> Networks:
        """The same networks in ``dtype``, connected to these by autograd."""
        if self.up.dtype == dtype:
            return self
        up, down, up_bias, down_bias = (None if tensor is None else tensor.to(dtype) for tensor in self.tensors())
        assert up is not None
        assert down is not None
        return Networks(up, down, up_bias, down_bias, self.act, self.gated)

    def middle(self, inner: Tensor) -> Tensor:
        """``[..., f]`` from the up projection's output ``[..., f or 2f]``."""
        if not self.gated:
            return self.act(inner)
        # Halves by view and unbind: their gradients come back as one stacked tensor, in one pass.
        gate, linear = inner.view(*inner.shape[:-1], 2, inner.shape[-1] // 2).unbind(-2)
        done: Tensor = self.act(gate) * linear
        return done


@dataclass(frozen=True)
class Segments:
    """Assignments sorted by expert, each expert's own in the order of the tokens.

    Attributes:
        order: ``[A]`` positions in the flattened ``[N*K]`` assignments; those to no expert (-1) are left out.
        token: ``[A]`` the token of each.
        counts: assignments per expert, E numbers with the sum A.
    """

    order: Tensor
    token: Tensor
    counts: list[int]

    @staticmethod
    def of(chosen: Tensor, experts: int) -> Segments:
        """Sort ``chosen`` ``[N, K]`` (expert numbers, -1 for none); waits for the device once, for the counts."""
        flat = chosen.reshape(-1)
        keys = torch.where(flat < 0, experts, flat)
        order = torch.argsort(keys, stable=True)
        counts: list[int] = torch.bincount(keys, minlength=experts + 1).tolist()
        order = order[: len(order) - counts.pop()]
        return Segments(order, torch.div(order, chosen.shape[1], rounding_mode="floor"), counts)

    def starts(self) -> list[int]:
        """Where each expert's assignments begin."""
        found, at = [], 0
        for count in self.counts:
            found.append(at)
            at += count
        return found

    def pieces(self, rows: int) -> Iterator[tuple[int, slice, bool]]:
        """``(expert, which of the A assignments, whether they are its first)``, at most ``rows`` in a piece."""
        for expert, (start, count) in enumerate(zip(self.starts(), self.counts, strict=True)):
            for at in range(start, start + count, rows):
                yield expert, slice(at, min(at + rows, start + count)), at == start
