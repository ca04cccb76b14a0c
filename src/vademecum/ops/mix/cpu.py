"""The mix on a CPU: compiled loops over segments of equal ids that allocate nothing but their results."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vademecum.lookup import Segments
from vademecum.ops.mix import pages

#: Types of gates, rows and results, each free to be either; sums are taken in fp32 and rounded once.
DTYPES = (torch.float32, torch.bfloat16)
#: Multiply-adds below which waking a second thread costs more than it saves.
SMALL = 2**20


def supports(gates: Tensor, rows: Tensor) -> str | None:
    """Why this path cannot take the arguments, or None if it can."""
    if gates.device.type != "cpu" or rows.device.type != "cpu":
        return f"the arguments are on {rows.device.type}"
    for name, tensor in (("gates", gates), ("rows", rows)):
        if tensor.dtype not in DTYPES:
            return f"the {name} are {tensor.dtype}"
    return None


def forward(gates: Tensor, rows: Tensor, segments: Segments) -> Tensor:
    """``[N, H, D]`` in the dtype of ``gates`` from ``gates`` ``[N, H, M]`` and ``rows`` ``[R, M, H, D]``."""
    out = pages.empty((*gates.shape[:2], rows.shape[-1]), gates.dtype)
    order, offsets, places = _indices(segments)
    with _threads(gates.numel() * rows.shape[-1]) as count:
        bounds = kernels().token_bounds(order.size, count)
        run = kernels().loops(rows.shape[-1], count > 1).forward
        run(_array(gates), _array(rows), order, offsets, places, _array(out), bounds)
    return out


def backward(grad: Tensor, gates: Tensor, rows: Tensor, segments: Segments, into: Tensor | None) -> Tensor:
    """Gradient of ``gates``; that of ``rows`` is added to ``into``.

    Args:
        grad: ``[N, H, D]`` gradient of the result.
        gates: ``[N, H, M]``.
        rows: ``[R, M, H, D]``.
        segments: which tokens read which row.
        into: fp32 ``[R, M, H, D]``, or None where the rows need no gradient.

    Returns:
        ``[N, H, M]`` in the dtype of ``gates``.
    """
    out = pages.empty(tuple(gates.shape), gates.dtype)
    order, offsets, places = _indices(segments)
    with _threads(gates.numel() * rows.shape[-1]) as count:
        loops = kernels().loops(rows.shape[-1], count > 1)
        bounds = kernels().token_bounds(order.size, count)
        loops.gates(_array(grad), _array(rows), order, offsets, places, _array(out), bounds)
        if into is not None:
            bounds = kernels().unit_bounds(offsets, rows.shape[1], count)
            loops.rows(_array(grad), _array(gates), order, offsets, places, into.numpy(), bounds)
    return out


def kernels() -> Any:
    """The loops; Numba takes half a second to import, so only once they are needed."""
    from vademecum.ops.mix import kernels

    return kernels


def _indices(segments: Segments) -> tuple[Any, Any, Any]:
    return segments.order.numpy(), segments.offsets.numpy(), segments.places.numpy()


def _array(tensor: Tensor) -> Any:
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


@contextmanager
def _threads(work: int) -> Iterator[int]:
    """Into how many chunks to cut ``work`` multiply-adds: as many as PyTorch has threads, if the pool is free."""
    wanted = torch.get_num_threads() if work > SMALL else 1
    if wanted == 1:
        yield 1
        return
    import numba

    # Some of Numba's pools end the process when two threads start work at once, or when a forked child starts any.
    lock, process = _pool()
    if process != os.getpid() or not lock.acquire(blocking=False):
        yield 1
        return
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(min(wanted, int(numba.config.NUMBA_NUM_THREADS)))  # type: ignore[attr-defined]
        yield wanted
    finally:
        numba.set_num_threads(before)
        lock.release()


@cache
def _pool() -> tuple[threading.Lock, int]:
    return threading.Lock(), os.getpid()
