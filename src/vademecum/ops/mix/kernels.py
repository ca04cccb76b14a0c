"""Loops of the CPU path, compiled by Numba when they are first called (and kept on disk for the next process).

They run on one thread: at the sizes that a CPU trains they take well under a millisecond per layer, less than it costs
to wake a second pool of threads beside torch's own. One thread also adds in one order, so results never vary.

Shapes: N tokens, H heads, M slots, D width of a head, U distinct rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float32]
Index = NDArray[np.int64]

# Sums may be reordered into vector lanes, but NaN and infinity must come through: training skips such steps.
_compiled: Any = njit(cache=True, fastmath={"reassoc", "contract", "nsz"}, nogil=True)


@_compiled  # type: ignore[untyped-decorator]
def forward(gates: Array, rows: Array, inverse: Index, out: Array) -> None:
    """Fill ``out`` ``[N, H, D]`` from ``gates`` ``[N, H, M]`` and ``rows`` ``[U, M, H, D]``."""
    tokens, heads, slots = gates.shape
    dim = rows.shape[3]
    for n in range(tokens):
        u = inverse[n]
        for h in range(heads):
            for d in range(dim):
                out[n, h, d] = 0.0
            for m in range(slots):
                gate = gates[n, h, m]
                for d in range(dim):
                    out[n, h, d] += gate * rows[u, m, h, d]


@_compiled  # type: ignore[untyped-decorator]
def backward(grad: Array, gates: Array, rows: Array, inverse: Index, grad_gates: Array, grad_rows: Array) -> None:
    """Fill ``grad_gates`` and add into ``grad_rows`` (zeros before) from ``grad`` ``[N, H, D]``."""
    tokens, heads, slots = gates.shape
    dim = rows.shape[3]
    for n in range(tokens):
        u = inverse[n]
        for h in range(heads):
            for m in range(slots):
                gate = gates[n, h, m]
                dot = np.float32(0.0)
                for d in range(dim):
                    g = grad[n, h, d]
                    dot += g * rows[u, m, h, d]
                    grad_rows[u, m, h, d] += gate * g
                grad_gates[n, h, m] = dot
