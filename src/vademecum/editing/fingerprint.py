"""What an overlay was made for: the host's numbers and weights, its memories, and the tokenizer."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from vademecum import hosts
from vademecum.attached import ROOT, Memories
from vademecum.state import host_state_dict, memory_state_dict

#: Values of each tensor that are looked at.
SAMPLE = 64
#: What is said of a model without memories of its own.
NO_MEMORY = "none"
#: By what a fast tokenizer makes ids of a text. Truncation and padding are the caller's, and what decodes makes none.
CUTS = ("normalizer", "pre_tokenizer", "model", "post_processor", "added_tokens")


def of_host(model: nn.Module) -> str:
    """Sixteen hexadecimal digits of the host's own weights, the same in every number type that bf16 survives.

    A few values of every tensor are read: enough to tell models apart, not to prove that none was changed.
    """
    tensors = model.state_dict(keep_vars=True)
    if isinstance(getattr(model, ROOT, None), Memories):
        # A tied tensor counts under each of its names, as it does on the bare host.
        own = {id(tensor) for tensor in host_state_dict(model).values()}
        tensors = {name: tensor for name, tensor in tensors.items() if id(tensor) in own}
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(_sampled(tensors[name]))
    return digest.hexdigest()[:16]


def of_memories(model: nn.Module) -> str:
    """Sixteen hexadecimal digits of the memories that are the model's own, or ``"none"``: they answer with the host.

    The rows of banks count by their names alone: edits may lie over them.
    """
    root = getattr(model, ROOT, None)
    if not isinstance(root, Memories) or not root.own():
        return NO_MEMORY
    digest, banks = hashlib.sha256(), root.banks()
    for name, rows in sorted(memory_state_dict(model).items()):
        digest.update(name.encode())
        if name not in banks and isinstance(rows, torch.Tensor):
            digest.update(_sampled(rows))
    return digest.hexdigest()[:16]


def _sampled(tensor: torch.Tensor) -> bytes:
    """A few values of a tensor of numbers that are not whole; nothing of others."""
    flat = tensor.detach().flatten()
    if not flat.is_floating_point() or not len(flat):
        return b""
    step = max(1, len(flat) // SAMPLE)
    return flat[::step][:SAMPLE].to(torch.bfloat16).float().cpu().numpy().tobytes()


def of_tokenizer(tokenizer: Any) -> str:
    """Sixteen hexadecimal digits of the vocabulary."""
    words = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def of_cuts(tokenizer: Any) -> str | None:
    """Sixteen hexadecimal digits of how a fast tokenizer makes ids of a text; None where it is no fast one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    rules = json.loads(backend.to_str(), object_hook=_set)
    cuts = json.dumps([rules.get(name) for name in CUTS], sort_keys=True)
    return hashlib.sha256(cuts.encode()).hexdigest()[:16]


def _set(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what is off or empty: a later version of the library may write down more of that."""
    return {name: one for name, one in settings.items() if one is not False and one not in (None, "", [], {})}


def of(model: nn.Module, tokenizer: Any) -> dict[str, Any]:
    """Everything that an overlay must find again."""
    found = {**of_model(model), "tokenizer": of_tokenizer(tokenizer)}
    cuts = of_cuts(tokenizer)
    return found if cuts is None else {**found, "cuts": cuts}


def of_model(model: nn.Module) -> dict[str, Any]:
    """What an overlay must find again in a model, whose tokenizer is not at hand."""
    root = getattr(model, ROOT, None)
    shape = root.shape if isinstance(root, Memories) else hosts.find(model).shape
    return {"shape": shape.to_dict(), "weights": of_host(model), "memories": of_memories(model)}


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two that :func:`of` gave agree in all that both say, memories aside; overlays of before say less."""
    return all(one[name] == other[name] for name in (one.keys() & other.keys()) - {"memories"})


def other_memories(made_for: dict[str, Any], found: dict[str, Any]) -> str | None:
    """How the memories of a model differ from those that an overlay was planned beside; None where they do not.

    An edit may be put beside other memories, but what it says was not asked there.
    """
    then, now = made_for.get("memories", found["memories"]), found["memories"]
    if then == now:
        return None
    return "beside none" if then == NO_MEMORY else "none are here" if now == NO_MEMORY else "beside others"


def require_same(made_for: dict[str, Any], found: dict[str, Any], what: str) -> None:
    """Raise ValueError, naming what differs of what ``found`` says; of a model alone it says no tokenizer."""
    different = [
        f"{key} {made_for['shape'].get(key)!r} (here {value!r})"
        for key, value in found["shape"].items()
        if made_for["shape"].get(key) != value
    ]
    if not different and made_for["weights"] != found["weights"]:
        different = ["other weights of the same shape (float16 rounds to others; float32 and bfloat16 count the same)"]
    cuts = found.get("cuts", made_for.get("cuts"))
    if made_for["tokenizer"] != found.get("tokenizer", made_for["tokenizer"]):
        different.append("another tokenizer")
    elif made_for.get("cuts", cuts) != cuts:
        different.append(
            "a tokenizer with the same vocabulary that makes other ids of a text (other merges, normalizer, "
            "pre-tokenizer, added or special tokens)"
        )
    if different:
        raise ValueError(
            f"{what} was made for another model: {', '.join(different)}; plan the facts anew for this one."
        )
