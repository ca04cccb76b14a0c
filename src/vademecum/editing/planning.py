"""From facts to an edit: headwords from the tokenizer, gates from what the host thinks, rows by gradient."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vademecum import hosts
from vademecum.attached import ROOT, Memories
from vademecum.editing import fingerprint, prompts
from vademecum.editing.edit import Edit, overlays
from vademecum.editing.facts import Fact, require_agreement, says
from vademecum.editing.gates import discriminant
from vademecum.editing.learning import WAYS, learned, line_of, longest, measured, ways_of
from vademecum.editing.locating import clean, spelled, spellings, tokens_of
from vademecum.editing.overlay import Overlay, Written
from vademecum.editing.reading import as_it_was, greedy, states
from vademecum.memory.base import chosen_layers

_log = logging.getLogger(__name__)

#: Subjects that a gate learns from, and how much more than made prompts one counts that was given to be kept.
SUBJECTS, KEPT = 5, 10.0
#: How much a text counts in which the same is asked of another.
TURNED = 3.0


def plan(
    model: nn.Module,
    facts: Sequence[Fact],
    tokenizer: Any,
    *,
    layers: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Edit:
    """Work out how ``facts`` are written into ``model``, which afterwards is as it was, bit for bit.

    Args:
        model: a Transformers decoder with its head, bare or with memories.
        facts: that do not contradict each other.
        tokenizer: the model's, of the fast sort.
        layers: that entries speak in; the upper half where not given, in which it is plain what is asked.
        progress: called with how many facts are done, and of how many.

    Returns:
        An edit, not applied; what it could not make hold is in its ``failed``.

    Raises:
        ValueError: a subject is missing from its prompt or no token ends with it, the model says the target already,
            or facts contradict each other. The model is then as it was.
    """
    facts = list(facts)
    if not facts:
        raise ValueError("plan was given no facts; give a list of vm.Fact(subject=..., prompt=..., target=...).")
    require_agreement(facts)
    root = getattr(model, ROOT, None)
    host = root.host if isinstance(root, Memories) else hosts.find(model)
    depth = host.shape.layers
    chosen = tuple(range(depth // 2, depth)) if layers is None else chosen_layers(tuple(layers), depth, "plan")
    if isinstance(root, Memories) and root.muted:
        raise ValueError("the model's memories are silent (knocked_out); leave that block before facts are planned.")
    heads = [headword(tokenizer, fact) for fact in facts]
    begun = time.perf_counter()
    with as_it_was(model):
        before = greedy(model, tokenizer, [fact.prompt for fact in facts], longest(tokenizer, facts))
        _require_news(facts, before)
        groups = _groups(facts)
        everything = [*facts, *(fact for other in overlays(model) for fact in other.facts)]
        gates = [
            gate_of(model, host, tokenizer, [facts[number] for number in own], everything, chosen) for own in groups
        ]
        gate = {number: place for place, own in enumerate(groups) for number in own}
        looked = time.perf_counter() - begun
        overlay = Overlay(
            made_for=fingerprint.of(model, tokenizer),
            layers=chosen,
            written=tuple(
                Written(
                    fact=fact,
                    spellings=head,
                    gate=gate[number],
                    before=said,
                    after="",
                    seconds=looked / len(facts),
                )
                for number, (fact, head, said) in enumerate(zip(facts, heads, before, strict=True))
            ),
            rows=torch.zeros(len(facts), len(chosen), host.shape.value_heads * host.shape.value_dim),
            gate_weights=torch.stack([weight for weight, _ in gates]).cpu(),
            gate_biases=torch.stack([bias for _, bias in gates]).cpu(),
            active=tuple(range(len(facts))),
        )
        overlay = measured(model, tokenizer, learned(model, host, tokenizer, overlay, progress))
    edit = Edit(model, dataclasses.replace(overlay, active=()).moved("add", overlay.active, ()))
    if edit.failed:
        _log.warning("%d of %d facts do not hold: %s", len(edit.failed), len(facts), "; ".join(edit.failed[:3]))
    return edit


def headword(tokenizer: Any, fact: Fact) -> tuple[tuple[int, ...], ...]:
    """Every spelling of a fact's subject, in token ids."""
    made = [way.replace("{}", fact.subject) for way in prompts.paraphrases(fact)]
    # What was given must be clean; of what is made, what is not is left out.
    texts = [fact.prompt, *fact.paraphrases, *(text for text in made if clean(tokenizer, text, fact.subject))]
    texts += [text for text in fact.keep if clean(tokenizer, text, fact.subject)]
    return spellings(tokenizer, (fact.subject, *fact.spellings), texts)


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


def _require_news(facts: Sequence[Fact], before: Sequence[str]) -> None:
    known = [
        f"{fact.target!r} to {fact.prompt!r}"
        for fact, said in zip(facts, before, strict=True)
        if says(said, fact.target)
    ]
    if known:
        raise ValueError(
            f"the model says {'; '.join(known)} already; leave that out, give another target, or take out the entry "
            f"that says otherwise ('vademecum edit remove')."
        )
