"""The soft mix of value memory: a token's own slots, weighed per head and added.

Reading costs what the distinct rows of a forward hold, not what its tokens hold: fast paths run over segments of
tokens with equal ids, and nothing of size tokens x slots x width is made in either direction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vademecum.lookup import Lookup
from vademecum.ops import specified
from vademecum.ops.mix import bag, gradient, library, naive, one, shared

__all__ = ["blend", "mix_slots", "shared_rows"]


def mix_slots(gates: Tensor, rows: Tensor, lookup: Lookup) -> Tensor:
    """``out[n,h,:] = sum_m gates[n,h,m] * rows[lookup.inverse[n], m, h, :]`` (MoVE, arXiv:2601.22887).

    Args:
        gates: ``[N, H, M]`` weights.
        rows: ``[U, M, H, D]`` the distinct rows of this forward (or the whole table, for a lookup that says so); give
            them through :func:`shared_rows` where several layers read them and their gradients will be added in
            one buffer.
        lookup: which of the rows belongs to token n.

    Returns:
        ``[N, H, D]`` in the dtype of ``gates``; the sum is taken in the wider of both dtypes.
    """
    if specified():
        return naive.mix_slots(gates, rows, lookup.inverse)
    compiling = torch.compiler.is_compiling()
    if len(gates) == 1 and not (compiling or lookup.whole or torch.is_grad_enabled()):
        return one.mix_slots(gates, rows)
    if not library.supported(gates, rows):
        return bag.mix_slots(gates, rows, lookup.bags(rows.shape[1], rows.shape[2]))
    if compiling:
        return library.mix_slots(gates, rows, lookup)
    return gradient.mix_slots(library.path_of(rows), gates, rows, lookup)


def blend(value: Tensor, gates: Tensor, rows: Tensor, lookup: Lookup, scale: float = 1.0) -> Tensor:
    """A token's value and slots under their gates: ``v'[n,h] = g[n,h,0] v[n,h] + scale * sum_m g[n,h,m] E[id_n,m,h]``.

    Args:
        value: ``[N, H, D]``.
        gates: ``[N, H, M + 1]``, the value's own first.
        rows: ``[U, M, H, D]``, as for :func:`mix_slots`.
        lookup: which of the rows belongs to token n.
        scale: factor on the slots.

    Returns:
        ``[N, H, D]`` in the dtype of ``value``.
    """
    if one.serves(value, gates, rows, lookup):
        return one.blend(value, gates, rows, scale)
    slots = gates[..., 1:] if scale == 1.0 else scale * gates[..., 1:]
    return gates[..., :1].to(value.dtype) * value + mix_slots(slots, rows, lookup).to(value.dtype)


def shared_rows(rows: Tensor, lookup: Lookup) -> Tensor:
    """The same rows, for several layers to read with ``lookup``: their gradients are added in one buffer.

    Call it once per forward, on the very tensor that the layers get. Other uses of the result are differentiated as
    ever, and their gradient is added.
    """
    if specified() or torch.compiler.is_compiling() or not library.supported(rows, rows):
        return rows
    if not (rows.requires_grad and torch.is_grad_enabled()):
        return rows
    return shared.share(rows, lookup)
