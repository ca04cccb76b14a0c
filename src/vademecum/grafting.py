"""One more memory onto a model that may have some, or one of them off again, with the others as they are.

The wrappers and hooks are taken off and put on anew; the memories' own modules, with all they have learned, stay the
very same objects. Kinds that say an order among their like are kept in it, whoever came first, so that the model does
not depend on history to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import nn

from vademecum import hosts, interrupts
from vademecum.attached import ROOT, Memories
from vademecum.memory.bank import Bank
from vademecum.memory.base import Built, Kind, Part, Shared
from vademecum.memory.layers import chosen_layers
from vademecum.surgery import keys_of, memories, put, site_of

#: A kind on a model, and the modules that were made for it.
Made = tuple[Kind, Built]


def extend(
    model: nn.Module,
    kind: Kind,
    *,
    host: hosts.Family | None = None,
    prepare: Callable[[Built], None] | None = None,
) -> Built:
    """Put ``kind`` on ``model`` beside whatever is there.

    Args:
        model: a host, with or without memories.
        kind: without a bank, which would need a place.
        host: names of the host's modules, for families that ``vademecum.hosts`` does not know.
        prepare: gets the modules before they are put on.

    Returns:
        The modules that were made.

    Raises:
        ValueError: the kind has a bank or does not fit, or the model is compiled or being recorded. The model is then
            unchanged.
    """
    hosts.require_uncompiled(model)
    root = _root(model)
    found = hosts.find(model, host) if root is None else root.host
    layers = chosen_layers(kind.layers, found.shape.layers, type(kind).__name__)
    site = site_of(found)
    kind.fit(site, layers)
    built = kind.build(site, layers)
    modules = [*built.parts.values(), *([built.shared] if built.shared is not None else [])]
    if any(isinstance(module, Bank) for one in modules for module in one.modules()):
        raise ValueError(
            f"{type(kind).__name__} has a bank, which needs a place; give it to vm.attach with the others."
        )
    for module in modules:
        module.train(found.model.training)
    if prepare is not None:
        prepare(built)
    there = [] if root is None else made(root)
    replace(model, found, root, _ordered([*there, (kind, built)]))
    return built


def withdraw(model: nn.Module, kind: Kind) -> None:
    """Take ``kind``, the very object, off ``model``; the last one off leaves the bare host, bit for bit.

    Raises:
        ValueError: it is not there, or the model is being recorded. The model is then unchanged.
    """
    root = memories(model)
    there = made(root)
    left = [(other, built) for other, built in there if other is not kind]
    if len(left) == len(there):
        raise ValueError(f"this {type(kind).__name__} is not on the model; on it are {', '.join(root.kinds)}.")
    replace(model, root.host, root, left)


def _root(model: nn.Module) -> Memories | None:
    root = getattr(model, ROOT, None)
    return root if isinstance(root, Memories) else None


def made(root: Memories) -> list[Made]:
    """The kinds of ``root`` with their modules."""
    parts: dict[str, dict[int, Part]] = {}
    for key, layer, part in root.parts():
        parts.setdefault(key, {})[layer] = part
    return [
        (kind, Built(parts.get(key, {}), cast(Shared, root.shared[key]) if key in root.shared else None))
        for key, kind in root.kinds.items()
    ]


def _ordered(made: Sequence[Made]) -> list[Made]:
    """The same, those that have a label in the order of their labels, after all others.

    What edits put on comes last, so that it does not renumber the model's own kinds, by whose keys they are saved.
    """

    def place(one: Made) -> tuple[bool, str]:
        kind, built = one
        return built.shared is not None and built.shared.overlay is not None, getattr(kind, "label", "")

    return sorted(made, key=place)


def replace(model: nn.Module, host: hosts.Host, old: Memories | None, wanted: Sequence[Made]) -> None:
    """Put ``wanted`` on ``model`` in the place of ``old``, whose modules may be among them; an interrupt waits for it.

    Raises:
        ValueError: the model is being recorded, or two want one place. The model is then unchanged.
    """
    keys = keys_of(tuple(kind for kind, _ in wanted))
    parts: dict[tuple[int, str], dict[str, Part]] = {}
    shared: dict[str, Shared] = {}
    for key, (_, built) in zip(keys, wanted, strict=True):
        for layer, part in built.parts.items():
            put(parts, key, layer, part)
        if built.shared is not None:
            shared[key] = built.shared
    if old is not None and old.listeners:
        raise ValueError("the model is being recorded (vm.record); leave that block before its memories change.")
    before: dict[tuple[int, str], dict[str, Part]] = {}
    for key, layer, part in old.parts() if old is not None else ():
        before.setdefault((layer, part.site), {})[key] = part
    new = Memories(host, keys, shared)
    with interrupts.finished():
        try:
            if old is not None:
                new.muted, new.scratch = old.muted, old.scratch
                old.remove()
            if wanted:
                new.place(parts)
        except BaseException:
            new.remove()
            if old is not None:
                old.remove()
                old.place(before)
            raise
