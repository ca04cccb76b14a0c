"""The soft mix of value memory: a token's own slots, weighed per head and added."""

from __future__ import annotations

from torch import Tensor

from vademecum.ops import specified
from vademecum.ops.mix import cpu
from vademecum.ops.mix import naive as specification

__all__ = ["mix_slots"]


def mix_slots(gates: Tensor, rows: Tensor, inverse: Tensor, bags: Tensor) -> Tensor:
    """``out[n,h,:] = sum_m gates[n,h,m] * rows[inverse[n], m, h, :]`` (MoVE, arXiv:2601.22887).

    Args:
        gates: ``[N, H, M]`` weights; cast to the dtype of ``rows``.
        rows: ``[U, M, H, D]`` the distinct rows of this forward.
        inverse: ``[N]`` which of the U rows belongs to token n.
        bags: ``[N*H, M]`` the same as indices into ``rows`` seen as ``[U*M*H, D]`` (``Lookup.bags``).

    Returns:
        ``[N, H, D]`` in the dtype of ``rows``.
    """
    gates = gates.to(rows.dtype)
    if specified():
        return specification.mix_slots(gates, rows, inverse)
    return cpu.mix_slots(gates, rows, bags)
