"""Codes on a CPU: compiled loops that decode a row where it is used, into memory that stays in the cache."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vademecum.lookup import Segments
from vademecum.ops.codes.formats import Format
from vademecum.ops.mix import pages

#: Values below which waking another thread costs more than it saves.
SMALL = 2**20


def encode(rows: Tensor, form: Format) -> Tensor:
    """As :func:`vademecum.ops.codes.naive.encode`, contiguous ``rows`` on the CPU."""
    out = torch.empty(len(rows), form.row_bytes(*rows.shape[1:]), dtype=torch.uint8)
    rooms = np.array(form.rooms)
    above, below = ((levels + rooms).astype(np.float32) for levels in (form.above, form.below))
    run, zero, low = _loops(form).encode, np.float32(form.zero), np.float32(form.low)
    _shared(
        len(rows),
        rows.numel() * len(rooms),
        lambda a, b: run(rows[a:b].numpy(), above, below, zero, low, out[a:b].numpy()),
    )
    return out


def decode(codes: Tensor, form: Format, slots: int, width: int) -> Tensor:
    """As :func:`vademecum.ops.codes.naive.decode`, contiguous ``codes`` on the CPU."""
    out = pages.empty((len(codes), slots, width), torch.float32)
    run, zero = _loops(form).decode, np.float32(form.zero)
    _shared(len(codes), out.numel(), lambda a, b: run(codes[a:b].numpy(), zero, out[a:b].numpy()))
    return out


def mix(gates: Tensor, codes: Tensor, form: Format, segments: Segments, dim: int) -> Tensor:
    """``[N, H, D]`` in fp32 from fp32 ``gates`` ``[N, H, M]`` and ``codes`` ``[U, row_bytes]``, both contiguous."""
    out = pages.empty((*gates.shape[:2], dim), torch.float32)
    run, zero = _loops(form, dim).mix, np.float32(form.zero)
    arrays = [gates.numpy(), codes.numpy(), zero, *(each.numpy() for each in segments), out.numpy()]
    _shared(len(gates), gates.numel() * dim, lambda a, b: run(*arrays, a, b))
    return out


def _loops(form: Format, dim: int = 0) -> Any:
    # Numba takes half a second to import, so only once it is needed.
    from vademecum.ops.codes import kernels

    return kernels.loops(form.bits, form.block, dim)


def _shared(count: int, work: int, run: Callable[[int, int], None]) -> None:
    """Call ``run(first, last)`` over ``count`` items, by as many threads as PyTorch uses where ``work`` is worth it."""
    threads = min(torch.get_num_threads() if work > SMALL else 1, count)
    if threads <= 1:
        run(0, count)
        return
    bounds = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, bounds[:-1], bounds[1:]))
