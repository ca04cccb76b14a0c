"""The mix on a CPU: compiled loops over segments of equal ids that allocate nothing but their results."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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
#: Chunks for every thread: who is late does fewer of them.
CHUNKS = 4


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
    run, threads = kernels().loops(rows.shape[-1]), _threads(gates, rows)
    bounds = kernels().token_bounds(order.size, CHUNKS * threads if threads > 1 else 1)
    _share_out(threads, bounds, run.forward, _array(gates), _array(rows), order, offsets, places, _array(out))
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
    run, threads = kernels().loops(rows.shape[-1]), _threads(gates, rows)
    chunks = CHUNKS * threads if threads > 1 else 1
    bounds = kernels().token_bounds(order.size, chunks)
    _share_out(threads, bounds, run.gates, _array(grad), _array(rows), order, offsets, places, _array(out))
    if into is not None:
        bounds = kernels().unit_bounds(offsets, rows.shape[1], chunks)
        _share_out(threads, bounds, run.rows, _array(grad), _array(gates), order, offsets, places, into.numpy())
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


def _threads(gates: Tensor, rows: Tensor) -> int:
    return torch.get_num_threads() if gates.numel() * rows.shape[-1] > SMALL else 1


def _share_out(threads: int, bounds: Any, loop: Callable[..., None], *arrays: Any) -> None:
    """Run ``loop`` over every chunk, on the calling thread and on as many others as come in time.

    PyTorch's own threads spin for a while after each of its operators, and a machine has other work to do. Helpers
    take a chunk when they get to run and are waited for only while they do one, so none of that costs more than help.
    """
    chunks = deque(bounds[i : i + 2] for i in range(len(bounds) - 1))
    helpers = [_pool(os.getpid(), threads - 1).submit(_work, chunks, loop, arrays) for _ in range(threads - 1)]
    _work(chunks, loop, arrays)
    for helper in helpers:
        if not helper.cancel():
            helper.result()


def _work(chunks: deque[Any], loop: Callable[..., None], arrays: Iterable[Any]) -> None:
    while True:
        try:
            chunk = chunks.popleft()
        except IndexError:
            return
        loop(*arrays, chunk)


@cache
def _pool(process: int, helpers: int) -> ThreadPoolExecutor:
    # By process: a forked child has none of its parent's threads.
    return ThreadPoolExecutor(helpers, thread_name_prefix="vademecum-mix")
