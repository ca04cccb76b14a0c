"""A token alone, as in decoding: in plain PyTorch, in the fewest calls there are, since the calls are what it costs."""

from __future__ import annotations

import torch
from torch import Tensor

from vademecum.lookup import Lookup
from vademecum.ops import specified


def serves(value: Tensor, gates: Tensor, rows: Tensor, lookup: Lookup) -> bool:
    """Whether :func:`blend` may be used: one token, one dtype, nothing to differentiate, nothing to compile."""
    return (
        len(value) == 1 == len(lookup.inverse)
        and not lookup.whole
        and value.dtype == gates.dtype == rows.dtype
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not specified()
    )


def blend(value: Tensor, gates: Tensor, rows: Tensor, scale: float) -> Tensor:
    """``[1, H, D]`` from ``value`` ``[1, H, D]``, ``gates`` ``[1, H, M + 1]`` and ``rows`` ``[1, M, H, D]``."""
    by_head = gates.transpose(0, 1)
    own = value.transpose(0, 1) * by_head[..., :1]
    return torch.baddbmm(own, by_head[..., 1:], rows[0].transpose(0, 1), alpha=scale).transpose(0, 1)


def mix_slots(gates: Tensor, rows: Tensor) -> Tensor:
    """``[1, H, D]`` from ``gates`` ``[1, H, M]`` and ``rows`` ``[1, M, H, D]``; the sum in the wider of both dtypes."""
    wide = gates if gates.dtype != torch.bfloat16 else gates.float()
    return (wide.transpose(1, 2).unsqueeze(-1) * rows).sum(1).to(gates.dtype)
