"""The mix on a CPU: compiled loops over tokens, forward and backward, that allocate nothing but their results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)


def supports(gates: Tensor, rows: Tensor) -> str | None:
    """Why this path cannot take the arguments, or None if it can."""
    if torch.compiler.is_compiling():
        return "a compiled graph cannot look into the loops"
    if gates.device.type != "cpu" or rows.device.type != "cpu":
        return f"the arguments are on {rows.device.type}"
    if rows.dtype not in DTYPES:
        return f"the rows are {rows.dtype}"
    return None


def mix_slots(gates: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """Same result as the specification; sums are taken in fp32 and rounded once to the dtype of ``rows``.

    Args:
        gates: ``[N, H, M]``.
        rows: ``[U, M, H, D]``.
        inverse: ``[N]``.

    Returns:
        ``[N, H, D]``.
    """
    mixed: Tensor = _Mix.apply(gates.float(), rows.float(), inverse)  # type: ignore[no-untyped-call]
    return mixed.to(rows.dtype)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
        from vademecum.ops.mix import kernels

        gates, rows = gates.contiguous(), rows.contiguous()
        ctx.save_for_backward(gates, rows, inverse)
        out = gates.new_empty(*gates.shape[:2], rows.shape[-1])
        kernels.forward(*_arrays(gates, rows, inverse, out))
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        from vademecum.ops.mix import kernels

        gates, rows, inverse = ctx.saved_tensors
        grad_gates, grad_rows = torch.empty_like(gates), torch.zeros_like(rows)
        kernels.backward(*_arrays(grad.contiguous(), gates, rows, inverse, grad_gates, grad_rows))
        return grad_gates, grad_rows, None


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]
