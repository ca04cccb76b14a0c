"""The compiled call of :mod:`vademecum.ops.mix.decode`; it takes addresses, since arrays would be made in Python."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def _as_pointer(_: Any, address: Any) -> Any:
    """An address as a pointer."""

    def emit(context: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), emit


# What a compiler sees of it takes an address alone.
_pointer: Any = _as_pointer


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")
def step(
    hidden: int,
    value: int,
    weight: int,
    rows: int,
    places: int,
    out: int,
    tokens: int,
    channels: int,
    width: int,
    slots: int,
    heads: int,
    dim: int,
    scale: float,
    bias: float,
) -> None:
    """Fill ``out`` ``[tokens, H, D]``; shapes as in :func:`vademecum.ops.mix.decode.step`, everything contiguous."""
    x = carray(_pointer(hidden), (tokens, channels), np.float32)
    v = carray(_pointer(value), (tokens, heads, dim), np.float32)
    w = carray(_pointer(weight), (heads * (slots + 1), width), np.float32)
    p = carray(_pointer(places), (tokens,), np.int64)
    # How many rows there are is not known here, and nothing asks for it.
    e = carray(_pointer(rows), (1, slots, heads, dim), np.float32)
    o = carray(_pointer(out), (tokens, heads, dim), np.float32)
    for n in range(tokens):
        for h in range(heads):
            for m in range(slots + 1):
                logit = np.float32(0.0)
                for d in range(width):
                    logit += w[h * (slots + 1) + m, d] * x[n, d]
                if m:
                    gate = np.float32(scale * 2.0 / (1.0 + np.exp(-(logit + bias))))
                    for d in range(dim):
                        o[n, h, d] += gate * e[p[n], m - 1, h, d]
                else:
                    gate = np.float32(2.0 / (1.0 + np.exp(-logit)))
                    for d in range(dim):
                        o[n, h, d] = gate * v[n, h, d]
