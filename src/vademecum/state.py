"""A model's tensors, taken apart: the host's under its own names, the memory's under names that know no host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from vademecum import files
from vademecum.memory.sites import SiteWrapper
from vademecum.naming import saved_path
from vademecum.stores.base import Store
from vademecum.stores.ram import Ram
from vademecum.surgery import memories

Rows = Tensor | Store
"""A tensor, or a table that is never in memory whole."""


def memory_state_dict(model: nn.Module) -> dict[str, Rows]:
    """Tensors of the attached memory, such as ``move.shared.weight`` and ``move.layers.3.gate.weight``.

    What edits put beside it is left out; rows that an edit lies over come as they are, edit and all. Buffers that
    belong to the memory's state (the balance bias) are included. The tensors are the model's own; a bank that lies in
    no tensor comes as its store.
    """
    root = memories(model)
    own = root.own()
    tensors: dict[str, Rows] = {
        f"{key}.{name}": tensor
        for key, module in root.named().items()
        if key.split(".", 1)[0] in own
        for name, tensor in module.state_dict(keep_vars=True).items()
    }
    stores = {name: bank.store for name, bank in root.banks().items() if bank.store is not None}
    return tensors | {name: store.tensor if isinstance(store, Ram) else store for name, store in stores.items()}


def host_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of the host under the names it has without a memory; a tied tensor appears once, by its first name.

    A module that a memory took the place of is included as it was.
    """
    root = memories(model)
    paths = {id(module): path for path, module in model.named_modules()}
    wrappers = [paths[id(site)] for _, _, site in root.sites() if isinstance(site, SiteWrapper)]
    memory = [f"{saved_path(paths[id(site)], wrappers)}.memory." for _, _, site in root.sites()]
    memory.append(f"{paths[id(root)]}.")
    tensors = {
        name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if not name.startswith(tuple(memory))
    }
    seen: set[int] = set()
    return {name: t for name, t in tensors.items() if not (id(t) in seen or seen.add(id(t)))}  # type: ignore[func-returns-value]


def load_memory_state_dict(model: nn.Module, state: Mapping[str, Rows]) -> None:
    """Copy ``state`` into the attached memory.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape, or an edit lies over rows; all are named, and
            nothing is copied.
    """
    edited = [
        name for name, bank in memories(model).banks().items() if bank.rewrites is not None and bank.rewrites.laid
    ]
    if edited:
        raise ValueError(
            f"{', '.join(edited)} has rows that an edit lies over, and cannot be loaded below it; undo the edit first."
        )
    _copy_strictly(memory_state_dict(model), state, "the attached memory")


def require_memory_fit(model: nn.Module, state: Mapping[str, Rows]) -> None:
    """Raise what :func:`load_memory_state_dict` would raise, and copy nothing."""
    _require_fit(memory_state_dict(model), state, "the attached memory")


def load_host_state_dict(model: nn.Module, state: Mapping[str, Rows]) -> None:
    """Copy ``state`` into the host of an attached model; strict like :func:`load_memory_state_dict`."""
    _copy_strictly(host_state_dict(model), state, "the host")


def _require_fit(target: Mapping[str, Rows], source: Mapping[str, Rows], whose: str) -> None:
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
        if isinstance(tensor, Store) and tensor is not source[name] and tensor.refusal:
            raise ValueError(
                f"{name} of {whose} cannot be overwritten: it is read in place from a file, or compressed; call "
                "vm.detach(model) first and load onto the bare host."
            )


@torch.no_grad()
def _copy_strictly(target: Mapping[str, Rows], source: Mapping[str, Rows], whose: str) -> None:
    _require_fit(target, source, whose)
    for name, tensor in target.items():
        _copy(tensor, source[name], name)


def _copy(target: Rows, source: Rows, name: str) -> None:
    if target is source:
        return
    if isinstance(target, Tensor) and isinstance(source, Tensor):
        target.copy_(source)
        return
    # In pieces: at least one of them is larger than memory, or may be.
    table = Ram(target) if isinstance(target, Tensor) else target
    table.fill(_finite((Ram(source) if isinstance(source, Tensor) else source).chunks(), name))


def _finite(chunks: Iterator[Tensor], name: str) -> Iterator[Tensor]:
    start = 0
    for chunk in chunks:
        if chunk.is_floating_point() and not bool(torch.isfinite(chunk).all()):
            bad = start + int((~torch.isfinite(chunk).flatten(1).all(1)).nonzero()[0])
            raise files.Damaged(f"row {bad} of {name} is not finite; take an earlier save.")
        start += len(chunk)
        yield chunk
