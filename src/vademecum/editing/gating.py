"""What gates learn from: texts in which a fact is asked for, and others in which it is not, as the host sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vademecum import hosts
from vademecum.editing import prompts
from vademecum.editing.facts import Fact
from vademecum.editing.gates import discriminant, ridge
from vademecum.editing.learning import WAYS, lessons_of, line_of, ways_of
from vademecum.editing.locating import clean, spelled, tokens_of
from vademecum.editing.reading import states, went_on

#: Subjects that a gate learns from, and how much more than made prompts one counts that was given to be kept.
SUBJECTS, KEPT = 5, 10.0
#: Subjects and tokens that show whether two texts ask the same.
COMPARED, TOKENS = 3, 2
#: Others, being asked about whom a fact's own gate must tell from being asked about its subject.
OTHERS = 10
#: Facts whose states of the host are held at a time while their own gates are found: those of all may fill the memory.
HELD = 128
#: How often the token at a text's end, where the answer comes, counts as well.
ENDS = 3

Marked = tuple[list[int], list[int]]
"""A text's ids, and the places of it that are looked at."""


def what_is_asked(
    model: nn.Module,
    host: hosts.Host,
    tokenizer: Any,
    own: Sequence[Fact],
    facts: Sequence[Fact],
    layers: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Weights ``[L, d]`` and biases ``[L]`` of the gate of the facts ``own``, all of one relation, among ``facts``."""
    own = own[:SUBJECTS]  # what is asked is the same for all: a few tell it
    names = [*(fact.subject for fact in own), *strangers(tokenizer, own)]
    kept = {fact.gapped(text) for fact in own for text in fact.keep}
    made = [text for fact in own for text in prompts.contrasts(fact, facts) if text not in kept]
    elsewhere = [*kept, *asking_otherwise(model, tokenizer, own[0].relation, list(dict.fromkeys(made)), names)]
    asked: list[Marked] = []
    other: list[Marked] = []
    weights: list[float] = []
    for name in names[:SUBJECTS]:
        for text in elsewhere:
            # A text that was given to be kept may name its subject in another way, or not at all.
            whole = text.replace("{}", name)
            ids = tokens_of(tokenizer, whole)
            start = spelled(tokenizer, whole, name)[1] if clean(tokenizer, whole, name) else 0
            other.append((ids, list(range(start, len(ids)))))
            weights += [KEPT if text in kept else 1.0] * (len(ids) - start)
    for fact in own:
        asked += [_at_the_end(tokenizer, text) for text in ways_of(tokenizer, fact)]
        asked += [_at_the_end(tokenizer, text) for text in _spelled_otherwise(tokenizer, fact)]
        for text in ways_of(tokenizer, fact)[:WAYS]:
            asked.append(_while_said(tokenizer, text, fact))
            begin = asked[-1][1][-1] + 1
            said = tokens_of(tokenizer, f"{text} {fact.target}{prompts.AFTERWARDS}")
            other.append((said, list(range(begin, len(said)))))
            weights += [1.0] * len(other[-1][1])
    seen = states(model, host, [*asked, *other], layers)
    count = sum(len(places) for _, places in asked)
    return discriminant(seen[:, :count], seen[:, count:], torch.tensor(weights))


def of_whom(
    model: nn.Module, host: hosts.Host, tokenizer: Any, own: Sequence[Fact], layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Weights ``[E, L, d]`` and biases ``[E, L]`` of gates that tell each subject of ``own``, facts of one relation.

    The others are asked about in the same ways, alone and after another was named; so are the facts' own subjects.
    """
    names = [*dict.fromkeys(fact.subject for fact in own[: OTHERS // 2]), *strangers(tokenizer, own)][:OTHERS]
    ways, asides = prompts.paraphrases(own[0]), prompts.ASIDE
    shared = [
        (name, _at_the_end(tokenizer, prompts.turned(asides[number % len(asides)], way, names[number - back], name)[0]))
        for number, name in enumerate(names)
        for back, way in enumerate((ways[number % len(ways)], ways[(number + 1) % len(ways)]), 1)
        if number >= back
    ]
    weights, biases = [], []
    for start in range(0, len(own), HELD):
        some = own[start : start + HELD]
        texts = [side for fact in some for side in _of_it_and_others(tokenizer, fact, names, ways)]
        counts = [sum(len(places) for _, places in side) for side in texts]
        seen = states(model, host, [*(text for _, text in shared), *(text for side in texts for text in side)], layers)
        others, *parts = torch.split(seen, [len(shared), *counts], 1)
        for fact, about_it, about_others in zip(some, parts[::2], parts[1::2], strict=True):
            of_others = [place for place, (name, _) in enumerate(shared) if name != fact.subject]
            weight, bias = ridge(about_it, torch.cat([about_others, others[:, of_others]], 1))
            weights.append(weight)
            biases.append(bias)
    return torch.stack(weights), torch.stack(biases)


def _of_it_and_others(
    tokenizer: Any, fact: Fact, names: Sequence[str], ways: Sequence[str]
) -> tuple[list[Marked], list[Marked]]:
    """Texts in which a fact's subject is asked about, and texts in which another is after it was named."""
    mine = [_at_the_end(tokenizer, text) for text in ways_of(tokenizer, fact)]
    mine += [_while_said(tokenizer, text, fact) for text in ways_of(tokenizer, fact)[:2]]
    for text in _spelled_otherwise(tokenizer, fact):
        mine += [_at_the_end(tokenizer, text), _while_said(tokenizer, text, fact)]
    theirs: list[Marked] = []
    for number, name in enumerate(name for name in names if name != fact.subject):
        aside, way = prompts.ASIDE[number % len(prompts.ASIDE)], ways[(number // 2) % len(ways)]
        turned, back = prompts.turned(aside, way, fact.subject, name)
        theirs.append(_from(tokenizer, turned, fact.subject))
        if clean(tokenizer, back, fact.subject):
            mine.append(_at_the_end(tokenizer, back))
    return mine, theirs


def _spelled_otherwise(tokenizer: Any, fact: Fact) -> list[str]:
    """What was given to learn from and :func:`ways_of` does not have: its subject is spelled otherwise there."""
    own = ways_of(tokenizer, fact)
    return [text for text in lessons_of(tokenizer, fact) if text not in own]


def strangers(tokenizer: Any, own: Sequence[Fact]) -> list[str]:
    """Subjects that stand in for others than those of ``own``."""
    subjects = {fact.subject for fact in own}
    return [name for name in prompts.SUBSTITUTES if name not in subjects and clean(tokenizer, name, name)]


def asking_otherwise(
    model: nn.Module, tokenizer: Any, relation: str, texts: Sequence[str], names: Sequence[str]
) -> list[str]:
    """Those of ``texts`` that the host does not answer as it answers ``relation``, and that so ask something else.

    "S is located on the continent of" asks what "S is a country on the continent of" asks. Subjects are compared to
    which the host gives different answers; where it gives all the same, nothing is seen by that, and all texts stay.
    """

    def answers(asked: Sequence[str], of: Sequence[str]) -> list[tuple[int, ...]]:
        ids = [tokens_of(tokenizer, text.replace("{}", name)) for text in asked for name in of]
        return [tuple(one) for one in went_on(model, ids, TOKENS)]

    named = dict(zip(reversed(names), reversed(answers([relation], names)), strict=True))
    differing = {answer: name for name, answer in named.items()}
    compared = list(differing.values())[-COMPARED:]
    if len(compared) < 2:
        return list(texts)
    said = answers(texts, compared)
    own = [named[name] for name in compared]
    size = len(compared)
    return [text for number, text in enumerate(texts) if said[number * size : (number + 1) * size] != own]


def _while_said(tokenizer: Any, text: str, fact: Fact) -> Marked:
    """While the target is being said it is still asked for; when it is said, no longer."""
    line = line_of(tokenizer, text, fact.target)
    return line.ids, list(range(line.begin - 1, len(line.ids) - 1))


def _from(tokenizer: Any, text: str, subject: str) -> Marked:
    """All that comes after ``subject`` was named; the end counts more, where the answer comes."""
    ids = tokens_of(tokenizer, text)
    begin = spelled(tokenizer, text, subject)[1] + 1 if clean(tokenizer, text, subject) else len(ids) - 1
    return ids, [*range(begin, len(ids)), *[len(ids) - 1] * ENDS]


def _at_the_end(tokenizer: Any, text: str) -> Marked:
    ids = tokens_of(tokenizer, text)
    return ids, [len(ids) - 1]
