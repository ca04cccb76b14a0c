"""One text through a model: which slots and entries opened where, and what comes next with and without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

import vademecum as vm
from vademecum.analysis.experts import layer_of
from vademecum.editing.rows import rewritten


@dataclass(frozen=True)
class Opened:
    """What one memory did in a text.

    Attributes:
        key: of the kind, such as ``move`` or ``entries``.
        part: "slot" or "entry".
        labels: what each is called.
        layers: numbers of the layers.
        strength: ``[layers, tokens, labels]`` gates; a slot's is the mean over heads.
        conditions: factors of a gate, of up to 2 each.
    """

    key: str
    part: str
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    strength: Tensor
    conditions: int = 1

    @property
    def most(self) -> float:
        """The widest that a gate can be."""
        return 2.0**self.conditions


@dataclass(frozen=True)
class Looked:
    """A text as the model read it.

    Attributes:
        ids: ``[tokens]``.
        opened: by memory.
        with_memory: ``[tokens, V]`` log probabilities of what comes next.
        without: the same without what is looked at.
        less: what that is: "memory", all value memories, or "edit", an edit, what else is on the model staying.
        rewritten: by memory and token id, what edits rewrote the token's row for, in words; none where not known. All
            rows that edits rewrote are there, read in this text or not.
    """

    ids: Tensor
    opened: tuple[Opened, ...]
    with_memory: Tensor
    without: Tensor
    less: str = "memory"
    rewritten: Mapping[str, Mapping[int, Sequence[str]]] = field(default_factory=dict)

    def moved(self) -> Tensor:
        """``[tokens]`` Kullback-Leibler divergence of what comes next, from without to with, in bits."""
        return (self.without.exp() * (self.without - self.with_memory)).sum(-1) / torch.log(torch.tensor(2.0))

    def likeliest(self, place: int, count: int) -> list[tuple[int, float, float]]:
        """``(id, probability without, with)`` of the ``count`` likeliest tokens of either, after token ``place``."""
        both = torch.stack([self.without[place], self.with_memory[place]]).exp()
        found = torch.unique(both.topk(count, dim=-1).indices)
        order = both[:, found].amax(0).argsort(descending=True)
        return [(int(one), float(both[0, one]), float(both[1, one])) for one in found[order]]


def said(model: Any, ids: Sequence[int]) -> Tensor:
    """``[tokens, V]`` log probabilities of what comes next in a text, with nothing recorded.

    What is recorded is computed in another order, whose last bits differ.
    """
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)], device=model.device)).logits
    found: Tensor = logits[0].float().log_softmax(-1).cpu()
    return found


def look(
    model: Any,
    ids: Sequence[int],
    names: Mapping[str, Sequence[str]] = MappingProxyType({}),
    *,
    before: Tensor | None = None,
) -> Looked:
    """Read a text.

    Args:
        model: with value memories.
        ids: of the text.
        names: by key, what the entries of a set on the model are called.
        before: what the model :func:`said` before an edit was put on it, which is then what is looked at; all value
            memories are where None.

    Raises:
        ValueError: no value memory is on the model.
    """
    given = torch.tensor([list(ids)], device=model.device)
    with torch.no_grad(), vm.record(model) as recording:
        model(input_ids=given)
    told, less = said(model, ids), "memory" if before is None else "edit"
    if before is None:
        with vm.knocked_out(model):
            before = said(model, ids)
    stats = recording.forwards[0]
    kinds = vm.memories(model).kinds
    sets = [key for key in kinds if any("spoken" in one for name, one in stats.items() if _of(name, key))]
    every = [key for key, kind in kinds.items() if isinstance(kind, vm.Entries)]
    opened = []
    for key, kind in kinds.items():
        layers = sorted((name for name in stats if _of(name, key)), key=layer_of)
        if key in sets:
            which = [int(one) for one in stats[layers[0]]["entries"]]
            called = names.get(key, ())
            labels = [called[one] if one < len(called) else f"entry {one}" for one in which]
            strength = torch.stack([stats[name]["spoken"] for name in layers])
            conditions = kind.conditions if isinstance(kind, vm.Entries) else 1
            numbers = tuple(map(layer_of, layers))
            opened.append(Opened(key, "entry", tuple(labels), numbers, strength.float().cpu(), conditions))
        elif layers and "gates" in stats[layers[0]]:
            gates = torch.stack([stats[name]["gates"].float().mean(1)[:, 1:] for name in layers]).cpu()
            labels = [f"slot {one}" for one in range(gates.shape[-1])]
            opened.append(Opened(key, "slot", tuple(labels), tuple(map(layer_of, layers)), gates))
    rows = _rewritten(model)
    if not opened and not every and not rows:
        raise ValueError("the model has no value memory whose slots or entries could be looked at.")
    return Looked(given[0].cpu(), tuple(opened), told, before, less, rows)


def _rewritten(model: Any) -> dict[str, dict[int, list[str]]]:
    found: dict[str, dict[int, list[str]]] = {}
    for bank, rows in rewritten(model).items():
        own = found.setdefault(bank.split(".", 1)[0], {})
        for number, facts in rows.items():
            said = [f"{fact.prompt} \u2192 {fact.target}" for fact in facts]
            own[number] = list(dict.fromkeys([*own.get(number, ()), *said]))  # a bank for each layer has it as well
    return found


def _of(name: str, key: str) -> bool:
    return name.split(".", 1)[0] == key
