"""The mix as PyTorch operators, ``torch.ops.vademecum.mix`` and its gradient, for compiled graphs.

A compiler sees their shapes and not their loops, so a graph with a memory in it stays whole. Every layer has a gradient
of the rows of its own here, which autograd adds up: a buffer that layers share, as eagerly, would have to leave the
graph and come back changed, which no compiler follows.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vademecum.lookup import Lookup, Segments
from vademecum.ops.mix import cpu
from vademecum.ops.mix.gradient import Path

#: Whether kernels for a GPU can be made: Triton comes with PyTorch's builds for one.
TRITON = find_spec("triton") is not None


def path_of(tensor: Tensor) -> Path:
    """The fast path for a tensor's device."""
    if not tensor.is_cuda:
        return cpu
    from vademecum.ops.mix import triton

    return triton


def supported(gates: Tensor, rows: Tensor) -> bool:
    """Whether there is a fast path for the arguments."""
    if rows.is_cuda:
        return TRITON and gates.is_cuda and {gates.dtype, rows.dtype} <= {*cpu.DTYPES, torch.float16}
    return cpu.supports(gates, rows) is None


def mix_slots(gates: Tensor, rows: Tensor, lookup: Lookup) -> Tensor:
    """The mix as one operator."""
    mixed: Tensor = mix(gates, rows, *lookup.segments)
    return mixed


@torch.library.custom_op("vademecum::mix", mutates_args=())
def mix(gates: Tensor, rows: Tensor, order: Tensor, offsets: Tensor, places: Tensor) -> Tensor:
    """``[N, H, D]`` from ``gates`` ``[N, H, M]``, ``rows`` ``[R, M, H, D]`` and the three tensors of the segments."""
    if rows.device.type == "cpu" and places.numel() and not 0 <= int(places.min()) <= int(places.max()) < len(rows):
        raise IndexError(
            f"token ids {int(places.min())} to {int(places.max())} were given, but the bank has rows 0 to "
            f"{len(rows) - 1}; give ids of this bank's vocabulary."
        )
    return path_of(rows).forward(gates.contiguous(), rows.contiguous(), Segments(order, offsets, places))


@torch.library.custom_op("vademecum::mix_backward", mutates_args=("total",))
def mix_backward(
    grad: Tensor, gates: Tensor, rows: Tensor, order: Tensor, offsets: Tensor, places: Tensor, total: Tensor | None
) -> Tensor:
    """Gradient of ``gates``; that of ``rows`` is added to ``total``, fp32 ``[R, M, H, D]``, if it is wanted."""
    grad, gates, rows = grad.contiguous(), gates.contiguous(), rows.contiguous()
    return path_of(rows).backward(grad, gates, rows, Segments(order, offsets, places), total)


@mix.register_fake
def _(gates: Tensor, rows: Tensor, order: Tensor, offsets: Tensor, places: Tensor) -> Tensor:
    return gates.new_empty(*gates.shape[:2], rows.shape[-1])


@mix_backward.register_fake
def _(
    grad: Tensor, gates: Tensor, rows: Tensor, order: Tensor, offsets: Tensor, places: Tensor, total: Tensor | None
) -> Tensor:
    return gates.new_empty(gates.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _mix_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gates, rows, *segments = ctx.saved_tensors
    own = torch.zeros_like(rows, dtype=torch.float32) if ctx.needs_input_grad[1] else None
    grad_gates = mix_backward(grad, gates, rows, *segments, own)
    return grad_gates, None if own is None else own.to(rows.dtype), None, None, None


mix.register_autograd(_mix_gradient, setup_context=_keep)
