"""A token alone on a CPU, from hidden state to new value in one compiled call.

In decoding the weights of the host stream through the caches between two layers, so every call into PyTorch is cold and
costs some ten microseconds; gates and mix are a dozen of them, and their arithmetic is next to nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from vademecum.ops import specified


def serves(hidden: Tensor, value: Tensor, weight: Tensor, rows: Any) -> bool:
    """Whether :func:`step` may be used: one token in fp32 on a CPU, nothing to differentiate or to compile."""
    return (
        hidden.numel() == hidden.shape[-1]
        and isinstance(rows, Tensor)
        and len(rows) == 1
        and hidden.dtype == value.dtype == weight.dtype == rows.dtype == torch.float32
        and hidden.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not specified()
        and hidden.is_contiguous()
        and value.is_contiguous()
        and weight.is_contiguous()
        and rows.is_contiguous()
    )


def step(hidden: Tensor, value: Tensor, weight: Tensor, rows: Tensor, *, scale: float, bias: float) -> Tensor:
    """``v' = g_0 v + scale * sum_m g_m E_m`` with ``g = 2 sigmoid(W x + b)``, b for the slots alone.

    Args:
        hidden: ``[..., d]`` of one token; its leading channels are read, as many as ``weight`` is wide.
        value: ``[..., H, D]``.
        weight: ``[H * (M + 1), width]``.
        rows: ``[1, M, H, D]``.
        scale: factor on the slots.
        bias: of the slots' logits.

    Returns:
        The shape of ``value``.
    """
    out = torch.empty_like(value)
    slots, heads, dim = rows.shape[1:]
    addresses = (hidden.data_ptr(), value.data_ptr(), weight.data_ptr(), rows.data_ptr(), out.data_ptr())
    _compiled()(*addresses, weight.shape[1], slots, heads, dim, scale, bias)
    return out


@cache
def _compiled() -> Any:
    from vademecum.ops.mix import decode_kernel

    return decode_kernel.step
