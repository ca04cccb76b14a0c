"""A few tokens on a CPU, from hidden state to new value in one compiled call.

In decoding the weights of the host stream through the caches between two layers, so every call into PyTorch is cold and
costs some ten microseconds; gates and mix are a dozen of them, and their arithmetic is next to nothing. The same holds
for several texts side by side, and for a short prompt.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

#: More tokens than this are worth two threads and matrix products.
FEW = 32


def step(
    hidden: Tensor, value: Tensor, weight: Tensor, rows: Any, places: Tensor, *, scale: float, bias: float
) -> Tensor | None:
    """``v' = g_0 v + scale * sum_m g_m E_m`` with ``g = 2 sigmoid(W x + b)``, b for the slots alone.

    Whether tokens are few, and nothing is trained, recorded or compiled, the frame says once for all layers; here is
    asked what may differ between them, in as few words as will do.

    Args:
        hidden: ``[..., d]`` of N tokens; leading channels are read, as many as ``weight`` is wide.
        value: ``[..., H, D]``.
        weight: ``[H * (M + 1), width]``.
        rows: ``[U, M, H, D]``, or what a compressed bank reads.
        places: ``[N]`` the row of each token, int64 and within U.
        scale: factor on the slots.
        bias: of the slots' logits.

    Returns:
        The shape of ``value``; None where they are not all fp32 tensors in one piece on a CPU, and of N tokens, or a
        gradient may be wanted.
    """
    if not (
        type(rows) is Tensor
        and not torch.compiler.is_compiling()  # a layer may be compiled by itself, inside a frame that is not
        and not torch.is_grad_enabled()  # or have gradients turned on before it
        and hidden.dtype is value.dtype is weight.dtype is rows.dtype is torch.float32
        and hidden.is_cpu
        and weight.is_cpu
        and rows.is_cpu
        and places.is_cpu
        and hidden.numel() == len(places) * hidden.shape[-1]
        and value.numel() == len(places) * rows.shape[-1] * rows.shape[-2]
        and hidden.is_contiguous()
        and value.is_contiguous()
        and weight.is_contiguous()
        and rows.is_contiguous()
    ):
        return None
    out = torch.empty_like(value)
    tensors = (hidden, value, weight, rows, places, out)
    shape = (len(places), hidden.shape[-1], weight.shape[1], *rows.shape[1:])
    _compiled()(*[tensor.data_ptr() for tensor in tensors], *shape, scale, bias)
    return out


@cache
def _compiled() -> Any:
    from vademecum.ops.mix import decode_kernel

    return decode_kernel.step
