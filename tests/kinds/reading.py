"""What a memory at the feed-forward does in a forward, seen from outside."""

from __future__ import annotations

import torch

import vademecum as vm


def seen_at(
    model: torch.nn.Module, layer: int, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Input, the host's own output (None where it rests) and the output of a layer's feed-forward, ``[N, d]`` each."""
    site, seen = model.model.layers[layer].mlp, {}
    handles = [
        site.register_forward_hook(lambda m, args, out: seen.update(hidden=args[0], out=out)),
        site.host.register_forward_hook(lambda m, args, out: seen.update(plain=out)),
    ]
    with torch.no_grad():
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    plain = seen.get("plain")
    return seen["hidden"].flatten(0, 1), None if plain is None else plain.flatten(0, 1), seen["out"].flatten(0, 1)


def rows_read(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """``[B, T, R]`` rows that each token reads by its hidden state, in all layers."""
    with vm.record(model) as rec, torch.no_grad():
        model(input_ids=ids)
    found = [rec.all(key, "slots").view(*ids.shape, -1) for key in rec.layers()]
    return torch.cat(found, -1)
