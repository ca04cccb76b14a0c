"""Expert compute as two grouped matrix products over the assignments sorted by expert (``F.grouped_mm``)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vademecum.ops.experts import naive
from vademecum.ops.experts.networks import Networks, Segments

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ALIGNMENT = 16  # bytes that every row must be a multiple of


def supports(hidden: Tensor, networks: Networks) -> str | None:
    """Why this path cannot take the arguments, or None if it can."""
    if hidden.dtype not in DTYPES or networks.up.dtype != hidden.dtype:
        return f"the hidden states are {hidden.dtype} and the experts {networks.up.dtype}"
    widths = (networks.up.shape[1], networks.up.shape[2], networks.down.shape[1])
    if any(width * hidden.element_size() % ALIGNMENT for width in widths):
        return f"the widths {widths} are no multiples of {ALIGNMENT} bytes"
    if hidden.device.type == "cuda" and (
        hidden.dtype != torch.bfloat16 or torch.cuda.get_device_capability(hidden.device) < (8, 0)
    ):
        return "on CUDA it takes bfloat16 on compute capability 8.0 or newer"
    return None


def run_experts(hidden: Tensor, chosen: Tensor, weights: Tensor, networks: Networks) -> Tensor:
    """Same result as the specification."""
    tokens, top_k = chosen.shape
    segments = Segments.of(chosen, len(networks))
    if not len(segments.order):
        return naive.run_experts(hidden, chosen, weights, networks)
    ends = torch.tensor(segments.counts, device=hidden.device).cumsum(0).to(torch.int32)
    expert = chosen.reshape(-1)[segments.order]
    inner = F.grouped_mm(hidden[segments.token], networks.up, offs=ends)
    if networks.up_bias is not None:
        inner = inner + networks.up_bias[expert]
    done = F.grouped_mm(networks.middle(inner), networks.down, offs=ends)
    if networks.down_bias is not None:
        done = done + networks.down_bias[expert]
    done = done * weights.reshape(-1)[segments.order].unsqueeze(1).to(done.dtype)
    if len(segments.order) == tokens * top_k:
        # Gathering the results back costs the same as scattering them, but adds nothing in an undefined order.
        back = torch.empty_like(segments.order)
        back[segments.order] = torch.arange(len(back), device=back.device)
        return done[back].view(tokens, top_k, -1).sum(1)
    return torch.zeros_like(hidden).index_add(0, segments.token, done)
