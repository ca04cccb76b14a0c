"""Expert compute: each token through its chosen experts, weighed and added."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vademecum.ops import specified
from vademecum.ops.experts import cpu
from vademecum.ops.experts import naive as specification

__all__ = ["run_experts"]


# How many tokens an expert gets is not a shape that a compiled graph can know.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def run_experts(
    hidden: Tensor, chosen: Tensor, weights: Tensor, experts: int, apply: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """``out[n] = sum_k weights[n,k] * expert_{chosen[n,k]}(hidden[n])``.

    Args:
        hidden: ``[N, d]``.
        chosen: ``[N, k]`` expert numbers in ``0 .. experts-1``, distinct within a row.
        weights: ``[N, k]``.
        experts: how many there are.
        apply: ``(expert number, [n, d]) -> [n, d]``, called with at least one token on the fast path.

    Returns:
        ``[N, d]`` in the dtype of ``hidden``.
    """
    run = specification.run_experts if specified() else cpu.run_experts
    return run(hidden, chosen, weights, experts, apply)
