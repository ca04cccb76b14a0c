"""Facts into entries: gates from what the host thinks, rows by gradient."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vademecum import grafting, hosts
from vademecum.editing import prompts
from vademecum.editing.edit import overlays
from vademecum.editing.entries import AsEntries, off
from vademecum.editing.facts import Fact
from vademecum.editing.gates import discriminant
from vademecum.editing.learning import TOGETHER, WAYS, descend, kept_steps, line_of, ways_of
from vademecum.editing.locating import clean, spelled, tokens_of
from vademecum.editing.overlay import Overlay, Written
from vademecum.editing.reading import states
from vademecum.memory.base import Built, chosen_layers

#: Subjects that a gate learns from, and how much more than made prompts one counts that was given to be kept.
SUBJECTS, KEPT = 5, 10.0
#: How much a text counts in which the same is asked of another.
TURNED = 3.0


def into_entries(
    model: Any,
    host: hosts.Host,
    tokenizer: Any,
    written: Sequence[Written],
    *,
    layers: Sequence[int] | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[AsEntries, tuple[Written, ...]]:
    """What entries say for ``written``, and those with the seconds that each took.

    Args:
        model: with its head.
        host: the same, seen through its family's names.
        tokenizer: the model's.
        written: facts with their headwords.
        layers: that entries speak in; the upper half where None, in which it is plain what is asked.
        progress: called with how many facts are done, and of how many.
    """
    begun = time.perf_counter()
    depth, facts = host.shape.layers, [one.fact for one in written]
    chosen = tuple(range(depth // 2, depth)) if layers is None else chosen_layers(tuple(layers), depth, "plan")
    groups = _groups(facts)
    everything = [*facts, *(fact for other in overlays(model) for fact in other.facts)]
    gates = [gate_of(model, host, tokenizer, [facts[number] for number in own], everything, chosen) for own in groups]
    gate = torch.zeros(len(facts), dtype=torch.long)
    for place, own in enumerate(groups):
        gate[own] = place
    looked = (time.perf_counter() - begun) / len(facts)
    content = AsEntries(
        layers=chosen,
        rows=torch.zeros(len(facts), len(chosen), host.shape.value_heads * host.shape.value_dim),
        gate=gate,
        gate_weights=torch.stack([weight for weight, _ in gates]).cpu(),
        gate_biases=torch.stack([bias for _, bias in gates]).cpu(),
    )
    looked_at = tuple(dataclasses.replace(one, seconds=one.seconds + looked) for one in written)
    whole = Overlay(made_for={}, written=looked_at, content=content, active=tuple(range(len(facts))))
    return _learned(model, host, tokenizer, whole, content, progress)


def _learned(
    model: Any,
    host: hosts.Host,
    tokenizer: Any,
    overlay: Overlay,
    content: AsEntries,
    progress: Callable[[int, int], None] | None,
) -> tuple[AsEntries, tuple[Written, ...]]:
    """The content with its rows learned, some facts side by side at a time."""
    rows, written = content.rows.clone(), list(overlay.written)
    for start in range(0, len(written), TOGETHER):
        begun = time.perf_counter()
        numbers = list(range(start, min(start + TOGETHER, len(written))))
        some = dataclasses.replace(overlay, active=tuple(numbers))
        kind = content.kind(some)

        def prepare(made: Built, some: Overlay = some) -> None:
            for part in made.parts.values():
                part.float()  # rows are learned in fp32, whatever the host computes in
            content.fill(made, some.order)

        try:
            built = grafting.extend(model, kind, prepare=prepare)
            tables: list[Any] = [built.parts[layer].rows.weight for layer in content.layers]  # type: ignore[union-attr]
            lines = [
                [line_of(tokenizer, text, one.fact.target) for text in ways_of(tokenizer, one.fact)[:WAYS]]
                for one in some.speaking
            ]
            kept = kept_steps(model, tokenizer, [prompt for one in some.speaking for prompt in one.fact.keep])
            descend(model, host, tables, lines, kept, content.layers[0])
            rows[list(some.order)] = torch.stack([table.detach().cpu() for table in tables], 1)
        finally:
            off(model, kind)
        seconds = (time.perf_counter() - begun) / len(numbers)
        for number in numbers:
            written[number] = dataclasses.replace(written[number], seconds=written[number].seconds + seconds)
        if progress is not None:
            progress(start + len(numbers), len(written))
    return dataclasses.replace(content, rows=rows), tuple(written)


def _groups(facts: Sequence[Fact]) -> list[list[int]]:
    """Numbers of the facts that share a gate: those of one relation."""
    by_relation: dict[str, list[int]] = {}
    for number, fact in enumerate(facts):
        by_relation.setdefault(fact.relation, []).append(number)
    return list(by_relation.values())


def gate_of(
    model: nn.Module,
    host: hosts.Host,
    tokenizer: Any,
    own: Sequence[Fact],
    facts: Sequence[Fact],
    layers: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Weights ``[L, d]`` and biases ``[L]`` of the gate of the facts ``own``, all of one relation, among ``facts``."""
    own = own[:SUBJECTS]  # what is asked is the same for all: a few tell it
    ways = list(dict.fromkeys(way for fact in own for way in prompts.paraphrases(fact)))
    elsewhere = list(dict.fromkeys(text for fact in own for text in prompts.contrasts(fact, facts)))
    subjects = [fact.subject for fact in own]
    strangers = [name for name in prompts.SUBSTITUTES if name not in subjects and clean(tokenizer, name, name)]
    names = [*subjects, *strangers][:SUBJECTS]
    asked: list[tuple[list[int], list[int]]] = []
    other: list[tuple[list[int], list[int]]] = []
    weights: list[float] = []
    kept = {prompts.gapped(text, fact) for fact in own for text in fact.keep}
    for name in names:
        for text in elsewhere:
            # A text that was given to be kept may name its subject in another way, or not at all.
            whole = text.replace("{}", name)
            ids = tokens_of(tokenizer, whole)
            start = spelled(tokenizer, whole, name)[1] if clean(tokenizer, whole, name) else 0
            other.append((ids, list(range(start, len(ids)))))
            weights += [KEPT if text in kept else 1.0] * (len(ids) - start)
    for fact in own:
        for way in ways:
            if clean(tokenizer, way.replace("{}", fact.subject), fact.subject):
                asked.append(_at_the_end(tokenizer, way.replace("{}", fact.subject)))
        for number, stranger in enumerate(strangers):
            # Named before, and another is asked about; another named before, and it is asked about.
            aside, way = prompts.ASIDE[number % len(prompts.ASIDE)], ways[number % len(ways)]
            turned, back = prompts.turned(aside, way, fact.subject, stranger)
            other.append(_at_the_end(tokenizer, turned))
            weights.append(TURNED)
            asked.append(_at_the_end(tokenizer, back))
        for text in ways_of(tokenizer, fact)[:WAYS]:
            line = line_of(tokenizer, text, fact.target)
            # While the target is being said it is still asked for; when it is said, no longer.
            asked.append((line.ids, list(range(line.begin - 1, len(line.ids) - 1))))
            said = tokens_of(tokenizer, f"{text} {fact.target}{prompts.AFTERWARDS}")
            other.append((said, list(range(len(line.ids) - 1, len(said)))))
            weights += [1.0] * len(other[-1][1])
    seen = states(model, host, [*asked, *other], layers)
    count = sum(len(places) for _, places in asked)
    return discriminant(seen[:, :count], seen[:, count:], torch.tensor(weights))


def _at_the_end(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    ids = tokens_of(tokenizer, text)
    return ids, [len(ids) - 1]
