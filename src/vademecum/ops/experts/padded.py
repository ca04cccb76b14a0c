"""Expert compute as two batched matrix products: every expert's tokens, padded to the busiest expert's number."""

from __future__ import annotations

import torch
from torch import Tensor

from vademecum.ops.experts import naive
from vademecum.ops.experts.networks import Networks, Segments


def run_experts(hidden: Tensor, chosen: Tensor, weights: Tensor, networks: Networks) -> Tensor:
    """Same result as the specification. Costs as much as if all experts were as busy as the busiest."""
    (tokens, top_k), experts = chosen.shape, len(networks)
    segments = Segments.of(chosen, experts)
    room = max(segments.counts)
    if not room:
        return naive.run_experts(hidden, chosen, weights, networks)
    starts = torch.tensor(segments.starts(), device=hidden.device)
    expert = chosen.reshape(-1)[segments.order]
    place = expert * room + torch.arange(len(expert), device=expert.device) - starts[expert]
    # Places that nobody takes read a row of zeros past the last token, and nobody reads what becomes of it.
    reads = torch.full((experts * room,), tokens, dtype=torch.long, device=hidden.device)
    reads[place] = segments.token
    padded = torch.cat([hidden, hidden.new_zeros(1, hidden.shape[1])])[reads].view(experts, room, -1)
    inner = torch.bmm(padded, networks.up)
    if networks.up_bias is not None:
        inner = inner + networks.up_bias.unsqueeze(1)
    done = torch.bmm(networks.middle(inner), networks.down)
    if networks.down_bias is not None:
        done = done + networks.down_bias.unsqueeze(1)
    # Assignments to no expert read a row of zeros as well.
    back = torch.full((tokens * top_k,), experts * room, dtype=torch.long, device=hidden.device)
    back[segments.order] = place
    rows = torch.cat([done.flatten(0, 1), done.new_zeros(1, done.shape[-1])])[back].view(tokens, top_k, -1)
    return (rows * weights.unsqueeze(-1).to(rows.dtype)).sum(1)
