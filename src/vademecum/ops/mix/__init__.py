"""The soft mix of value memory: a token's own slots, weighed per head and added."""

from __future__ import annotations

from torch import Tensor

from vademecum.lookup import Lookup
from vademecum.ops import specified
from vademecum.ops.mix import bag, cpu, naive

__all__ = ["mix_slots"]


def mix_slots(gates: Tensor, rows: Tensor, lookup: Lookup) -> Tensor:
    """``out[n,h,:] = sum_m gates[n,h,m] * rows[lookup.inverse[n], m, h, :]`` (MoVE, arXiv:2601.22887).

    Args:
        gates: ``[N, H, M]`` weights; cast to the dtype of ``rows``.
        rows: ``[U, M, H, D]`` the distinct rows of this forward.
        lookup: which of the U rows belongs to token n.

    Returns:
        ``[N, H, D]`` in the dtype of ``rows``.
    """
    gates = gates.to(rows.dtype)
    if specified():
        return naive.mix_slots(gates, rows, lookup.inverse)
    if cpu.supports(gates, rows) is None:
        return cpu.mix_slots(gates, rows, lookup.inverse)
    return bag.mix_slots(gates, rows, lookup.bags(rows.shape[1], rows.shape[2]))
