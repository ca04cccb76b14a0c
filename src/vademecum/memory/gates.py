"""How much of each slot, read from the hidden state: sigmoid gates per head, or a softmax per token."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vademecum.memory.base import Cost, Role, dense_cost


class SoftmaxGates(nn.Module):
    """``s = softmax(W x)``: weights of N things for a whole token, which add up to 1.

    Attributes:
        weight: ``[N, d]``; role ``router``.
    """

    role: ClassVar[Role] = Role.ROUTER

    def __init__(self, width: int, gates: int, *, std: float, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.gates = gates
        weight = torch.empty(gates, width, dtype=dtype, device=device)
        self.weight = nn.Parameter(nn.init.normal_(weight, std=std) if std else nn.init.zeros_(weight))

    def forward(self, hidden: Tensor) -> Tensor:
        """Weights ``[..., 1, N]`` from ``hidden`` ``[..., d]``."""
        return F.linear(hidden, self.weight).softmax(-1).unsqueeze(-2)

    def cost(self) -> Cost:
        """One small matrix product."""
        return dense_cost(self, flops=2 * self.weight.numel())

    def extra_repr(self) -> str:
        return f"gates={self.gates}"


class Gates(nn.Module):
    """``g = 2 sigmoid(W x + b)``: independent gates in (0, 2), all 1 where W and b are zero (MoVE, arXiv:2601.22887).

    Attributes:
        weight: ``[H*G, width]`` where G is the number of gates per head; role ``router``.
        width: how many leading channels of the hidden state the gates read.
        bias: fixed offset b of the gates' logits, 0 for the quiet ones; not learned.
    """

    role: ClassVar[Role] = Role.ROUTER

    def __init__(
        self,
        width: int,
        heads: int,
        gates: int,
        *,
        std: float,
        quiet: int,
        bias: float = 0.0,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Make gates whose first ``quiet`` ones per head start at exactly 1, the others at random with ``std``."""
        super().__init__()
        self.width, self.heads, self.gates = width, heads, gates
        self.quiet, self.bias = quiet, bias
        weight = torch.empty(heads, gates, width, dtype=dtype, device=device)
        nn.init.normal_(weight, std=std)
        weight[:, :quiet] = 0.0
        self.weight = nn.Parameter(weight.view(heads * gates, width))

    def forward(self, hidden: Tensor) -> Tensor:
        """Gates ``[..., H, G]`` from ``hidden`` ``[..., d]``."""
        # A slice of everything is still a call, and decoding is made of calls.
        seen = hidden if self.width == hidden.shape[-1] else hidden[..., : self.width]
        logits = F.linear(seen, self.weight)
        logits = logits.view(*logits.shape[:-1], self.heads, self.gates)
        if self.bias:
            logits = logits + F.pad(logits.new_full((self.gates - self.quiet,), self.bias), (self.quiet, 0))
        return 2.0 * torch.sigmoid(logits)

    def cost(self) -> Cost:
        """One small matrix product."""
        return dense_cost(self, flops=2 * self.weight.numel())

    def extra_repr(self) -> str:
        bias = f", bias={self.bias:g}" if self.bias else ""
        return f"width={self.width}, heads={self.heads}, gates={self.gates}{bias}"
