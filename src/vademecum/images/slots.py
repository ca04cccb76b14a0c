"""What the slots of a shared memory do in pictures: by class, and by place in the picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vademecum import state
from vademecum.images.tokens import PictureTokens
from vademecum.stores.base import Store
from vademecum.surgery import record
from vademecum.training.evaluate import evaluating

PICTURES = 256


@torch.no_grad()
def slot_places(model: PreTrainedModel, tokens: PictureTokens, pictures: int = PICTURES) -> dict[str, Any]:
    """Shares of the slots in what a memory adds, on held-out pictures; empty where no layer has two slots or more.

    A slot's share at a token is the norm of its gated row over the sum over slots, averaged over layers. Returns
    ``by_class`` [classes][M], ``by_place`` [T - 1][M] (the last token of a picture is never read) and ``even``, 1 / M.
    """
    windows = tokens.heldout_windows(tokens.length, pictures)
    ids = torch.from_numpy(windows[:, :-1]).to(model.device)
    with evaluating(model), record(model) as seen:
        model(input_ids=ids, use_cache=False)
    memory = state.memory_state_dict(model)
    shares = [
        _shares(values["gates"], _table(memory, key), ids)
        for forward in seen.forwards
        for key, values in forward.items()
        if "gates" in values and values["gates"].shape[-1] > 2 and _table(memory, key) is not None
    ]
    if not shares or len({share.shape for share in shares}) > 1:
        return {}
    mean = torch.stack(shares).mean(0).view(*ids.shape, -1)
    labels = ids[:, 0].cpu() - tokens.vocabulary.codes
    classes = range(len(tokens.vocabulary.classes))
    # The first token read is the class itself, which is no place in the picture.
    inside = mean[:, 1:]
    by_class = [
        inside[labels == label].mean((0, 1)).tolist() if bool((labels == label).any()) else None for label in classes
    ]
    return {"by_class": by_class, "by_place": inside.mean(0).tolist(), "even": 1 / mean.shape[-1]}


def _table(memory: Any, key: str) -> Tensor | Store | None:
    found: Tensor | Store | None = memory.get(f"{key}.bank.weight", memory.get(f"{key.split('.')[0]}.shared.weight"))
    return found


def _shares(gates: Tensor, table: Any, ids: Tensor) -> Tensor:
    """[N, M] of gates [N, H, M + 1], on the CPU."""
    unique, inverse = torch.unique(ids.reshape(-1).cpu(), return_inverse=True)
    rows = (table.gather(unique) if isinstance(table, Store) else table.detach().cpu()[unique])[inverse].float()
    opened = gates.detach().float().cpu()[:, :, 1:].transpose(1, 2)
    heads = opened.shape[2]
    norms = (opened[..., None] * rows.reshape(len(rows), rows.shape[1], heads, -1)).flatten(2).norm(dim=-1)
    shares: Tensor = norms / norms.sum(-1, keepdim=True).clamp_min(1e-20)
    return shares
