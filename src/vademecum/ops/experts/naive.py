"""The specification of expert compute: one expert after the other, on the tokens that chose it."""

from __future__ import annotations

import torch
from torch import Tensor

from vademecum.ops.experts.networks import Networks


def run_experts(hidden: Tensor, chosen: Tensor, weights: Tensor, networks: Networks) -> Tensor:
    """``out[n] = sum_k weights[n,k] * expert_{chosen[n,k]}(hidden[n])``, leaving out the k with ``chosen = -1``.

    Args:
        hidden: ``[N, d]``.
        chosen: ``[N, K]`` expert numbers, -1 for none.
        weights: ``[N, K]``.
        networks: the E experts.

    Returns:
        ``[N, d]`` in the dtype of ``hidden``.
    """
    out = torch.zeros_like(hidden)
    for expert in range(len(networks)):
        token, rank = torch.where(chosen == expert)
        inner = hidden[token] @ networks.up[expert]
        if networks.up_bias is not None:
            inner = inner + networks.up_bias[expert]
        update = networks.middle(inner) @ networks.down[expert]
        if networks.down_bias is not None:
            update = update + networks.down_bias[expert]
        out = out.index_add(0, token, update * weights[token, rank, None].to(update.dtype))
    return out
