"""A model's tensors, taken apart: the host's under its own names, the memory's under names that know no host."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vademecum.surgery import memories


def memory_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of the attached memory, such as ``move.shared.weight`` and ``move.layers.3.gate.weight``.

    Buffers that belong to the memory's state (the balance bias) are included. The tensors are the model's own.
    """
    return {
        f"{key}.{name}": tensor
        for key, module in memories(model).named().items()
        for name, tensor in module.state_dict(keep_vars=True).items()
    }


def host_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of the host under the names it has without a memory; a tied tensor appears once, by its first name.

    A module that a memory took the place of is included as it was.
    """
    root = memories(model)
    paths = {id(module): path for path, module in model.named_modules()}
    memory = [f"{paths[id(wrapper)]}.memory." for _, _, wrapper in root.sites()] + [f"{paths[id(root)]}."]
    tensors = {
        name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if not name.startswith(tuple(memory))
    }
    seen: set[int] = set()
    return {name: t for name, t in tensors.items() if not (id(t) in seen or seen.add(id(t)))}  # type: ignore[func-returns-value]


def load_memory_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy ``state`` into the attached memory.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; all are named, and nothing is copied.
    """
    _copy_strictly(memory_state_dict(model), state, "the attached memory")


def load_host_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy ``state`` into the host of an attached model; strict like :func:`load_memory_state_dict`."""
    _copy_strictly(host_state_dict(model), state, "the host")


@torch.no_grad()
def _copy_strictly(target: Mapping[str, Tensor], source: Mapping[str, Tensor], whose: str) -> None:
    missing, unexpected = sorted(target.keys() - source.keys()), sorted(source.keys() - target.keys())
    misshaped = [
        f"{name} is {tuple(source[name].shape)}, expected {tuple(target[name].shape)}"
        for name in sorted(target.keys() & source.keys())
        if target[name].shape != source[name].shape
    ]
    faults = [
        f"{label}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
        if names
    ]
    if faults:
        raise ValueError(
            f"the tensors do not fit {whose} ({'; '.join(faults)}); load what was saved from the same host and kinds."
        )
    for name, tensor in target.items():
        tensor.copy_(source[name])
