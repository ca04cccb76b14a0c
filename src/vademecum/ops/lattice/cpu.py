"""The folded way on a CPU, compiled: one place after the other, nothing made but the results."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vademecum.ops.lattice.offsets import NEAREST, offsets
from vademecum.ops.mix.cpu import CHUNKS, _share_out

#: Places below which waking a second thread costs more than it saves.
FEW = 512
#: Room of a row of distances, a whole number of the widest registers.
ROOM = 80


def near(q: Tensor, periods: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Slots, weights and codes ``[N, 32]`` of ``q`` ``[N, 8]``, fp32 or fp64."""
    shape = (len(q), NEAREST)
    slots, weights = torch.empty(shape, dtype=torch.int64), torch.empty(shape, dtype=q.dtype)
    codes = torch.empty(shape, dtype=torch.uint8)
    outputs = (slots.numpy(), weights.numpy(), codes.numpy())
    _run(_kernels().near, len(q), q.detach().numpy(), _whole(periods), *_tables(q.dtype == torch.float64), *outputs)
    return slots, weights, codes


def gradient(grad: Tensor, q: Tensor, codes: Tensor, periods: Sequence[int]) -> Tensor:
    """Gradient ``[N, 8]`` of ``q`` from that of the weights."""
    out = torch.empty_like(q)
    vectors = _tables(q.dtype == torch.float64)[0]
    arrays = (grad.numpy(), q.detach().numpy(), codes.numpy(), _whole(periods), vectors, out.numpy())
    _run(_kernels().gradient, len(q), *arrays)
    return out


@cache
def _tables(double: bool) -> tuple[Any, Any, Any]:
    vectors = offsets().astype(np.float64 if double else np.float32)
    table = np.full((9, ROOM), np.inf, vectors.dtype)
    table[:8] = 0
    table[:8, : len(vectors)] = -2 * vectors.T
    table[8, : len(vectors)] = (vectors**2).sum(1)
    return vectors, table, (offsets() + 4).astype(np.uint8)


def _kernels() -> Any:
    # Numba takes half a second to import, so only once it is needed.
    from vademecum.ops.lattice import kernels

    return kernels


def _whole(periods: Sequence[int]) -> Any:
    return np.array(periods, np.int64)


def _run(loop: Any, count: int, *arrays: Any) -> None:
    threads = torch.get_num_threads() if count > FEW else 1
    chunks = CHUNKS * threads if threads > 1 else 1
    _share_out(threads, np.arange(chunks + 1, dtype=np.int64) * count // chunks, loop, *arrays)
