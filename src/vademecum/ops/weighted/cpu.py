"""The three loops on a CPU, compiled: rows are read where they lie, and nothing is made but the results."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vademecum.ops.mix import pages
from vademecum.ops.mix.cpu import CHUNKS, DTYPES, SMALL, _array, _share_out


def supports(*tensors: Tensor) -> bool:
    """Whether this path can take the arguments: fp32 or bf16, on a CPU."""
    return all(tensor.device.type == "cpu" and tensor.dtype in DTYPES for tensor in tensors)


def summed(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """``[N, D]`` in the dtype of ``weights``: ``sum_k weights[n,k] * rows[places[n,k]]``."""
    out = pages.empty((len(places), rows.shape[1]), weights.dtype)
    _run(kernels().loops(rows.shape[1]).summed, len(places), weights.numel() * rows.shape[1],
         _array(rows), places.numpy(), _array(weights), _array(out))  # fmt: skip
    return out


def dotted(rows: Tensor, places: Tensor, x: Tensor) -> Tensor:
    """``[N, K]`` in the dtype of ``x``: ``rows[places[n,k]] . x[n]``."""
    out = pages.empty(tuple(places.shape), x.dtype)
    _run(kernels().loops(rows.shape[1]).dotted, len(places), places.numel() * rows.shape[1],
         _array(rows), places.numpy(), _array(x), _array(out))  # fmt: skip
    return out


def scattered(places: Tensor, weights: Tensor, x: Tensor, count: int) -> Tensor:
    """Gradient of the rows, fp32 ``[count, D]``: ``sum of weights[n,k] * x[n]`` where ``places[n,k]`` is the row."""
    out = pages.empty((count, x.shape[1]), torch.float32)
    offsets, order = np.zeros(count + 1, np.int64), np.empty(places.numel(), np.int64)
    kernels().ordered(places.reshape(-1).numpy(), offsets, order)
    _run(kernels().loops(x.shape[1]).scattered, count, places.numel() * x.shape[1],
         _array(weights), _array(x), order, offsets, out.numpy(), reads=offsets)  # fmt: skip
    return out


def kernels() -> Any:
    """The loops; Numba takes half a second to import, so only once they are needed."""
    from vademecum.ops.weighted import kernels

    return kernels


def _run(loop: Any, count: int, work: int, *arrays: Any, reads: Any = None) -> None:
    """Run ``loop`` over ``count`` items in even chunks, or in chunks with as many ``reads`` (given as running sum)."""
    threads = torch.get_num_threads() if work > SMALL else 1
    chunks = CHUNKS * threads if threads > 1 else 1
    bounds = kernels().even_bounds(count, chunks) if reads is None else kernels().read_bounds(reads, chunks)
    _share_out(threads, bounds, loop, *arrays)
