"""Prompts that must not change and that nobody gave: drawn for every fact, asked again with all entries on."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vademecum.editing import prompts
from vademecum.editing.agreement import answered, plain
from vademecum.editing.facts import Fact
from vademecum.editing.gating import OTHERS, strangers
from vademecum.editing.locating import clean, spelled
from vademecum.editing.overlay import Overlay
from vademecum.editing.written import Written

#: Other things asked of a fact's subject; beside them, once, the same is asked of a neighbour after it was named.
DRAWN = 3
#: A word of so many letters tells what is asked: a text that shares one with a fact may ask the same.
TELLING = re.compile(r"\w{4,}")
#: Rows of the model's input embedding whose mean says where its words lie.
SAMPLED = 4096


def to_ask(model: Any, tokenizer: Any, overlay: Overlay) -> dict[int, tuple[str, ...]]:
    """Drawn prompts by number of the fact, for those facts of ``overlay`` that are to be asked.

    The draw depends on a fact's subject and prompt alone, so a fact that is changed is asked what it was asked before.
    What facts of ``overlay`` answer, and neighbours that one is about, are passed over: these are to change. Gates
    learn from the same texts about a subject, but not from the same neighbours where there are enough.

    Args:
        model: whose input embedding tells which neighbour is most like a subject.
        tokenizer: the model's.
        overlay: whose entries speak. Where its journal says what came last, a fact is left out that was asked before
            and whose prompts name nothing that came or is silent: they begin as they did then.
    """
    facts = overlay.facts
    names = {name for fact in facts for name in _names(fact)}
    free = [one for one in strangers(tokenizer, facts) if not any(one in name or name in one for name in names)]
    neighbours, elsewhere = _Neighbours(model, tokenizer, free[OTHERS:] or free), answered(facts)
    told: dict[str, set[str]] = {}
    for fact in facts:
        told.setdefault(fact.subject, set()).update(_telling(fact.relation, *map(fact.gapped, fact.paraphrases)))
    found = {}
    for number in overlay.active:
        one = overlay.written[number]
        draw = random.Random(json.dumps([one.fact.subject, one.fact.prompt]))
        about = _about(tokenizer, one.fact, told[one.fact.subject], elsewhere, draw)
        found[number] = (*about, *_aside(tokenizer, one.fact, neighbours.of(one), draw))
    return found if _everywhere(overlay) else _anew(overlay, found)


class _Neighbours:
    """Which subject is most like a fact's own, in the mean of their tokens' embeddings."""

    def __init__(self, model: Any, tokenizer: Any, names: Sequence[str]) -> None:
        self._table = model.get_input_embeddings()
        count = self._table.num_embeddings
        self._middle = self._mean(range(0, count, max(1, count // SAMPLED)))
        spellings = {
            one: spelled(tokenizer, f"the {one}", one)[0] for one in names if clean(tokenizer, f"the {one}", one)
        }
        self._found = {one: self._mean(ids) - self._middle for one, ids in spellings.items()}

    def of(self, one: Written) -> str | None:
        """The name; None where there are none."""
        own = self._mean([token for spelling in one.spellings for token in spelling]) - self._middle
        like = {name: float(torch.cosine_similarity(own, other, 0)) for name, other in self._found.items()}
        return max(like, key=lambda name: like[name], default=None)

    def _mean(self, ids: Sequence[int]) -> Tensor:
        with torch.no_grad():
            found: Tensor = self._table(torch.tensor(ids, device=self._table.weight.device)).float().mean(0).cpu()
        return found


def _about(tokenizer: Any, fact: Fact, told: set[str], elsewhere: set[str], draw: random.Random) -> list[str]:
    """Other things that are said and asked of the subject."""
    given = {fact.gapped(text) for text in fact.keep}
    found: list[str] = []
    for way in draw.sample(prompts.CONTRASTS, len(prompts.CONTRASTS)):
        text = way.replace("{}", fact.subject)
        other = way not in given and not told & _telling(way) and plain(text) not in elsewhere
        if other and len(found) < DRAWN and clean(tokenizer, text, fact.subject):
            found.append(text)
    return found


def _aside(tokenizer: Any, fact: Fact, neighbour: str | None, draw: random.Random) -> list[str]:
    """The same, asked of a neighbour once the subject was named: of one asked alone no bit can change."""
    if neighbour is None:
        return []
    text, _ = prompts.turned(draw.choice(prompts.ASIDE), fact.relation, fact.subject, neighbour)
    return [text] if clean(tokenizer, text, fact.subject) else []


def touched(overlay: Overlay) -> list[int]:
    """Numbers of the facts of ``overlay`` that may be answered otherwise since its last change; all where none is told.

    Beside the same memories, text in which nothing is named that came or is silent has the bits that it had, so what
    was said of it stands.
    """
    if _everywhere(overlay):
        return list(overlay.active)
    came, names = overlay.journal[-1]["came"], _moving(overlay)

    def texts(one: Written) -> tuple[str, ...]:
        return (*one.fact.given, one.after, *one.fact.keep)

    def again(number: int) -> bool:
        one = overlay.written[number]
        return number in came or bool(one.unasked) or _named(names, texts(one))

    return [number for number in overlay.active if again(number)]


def _everywhere(overlay: Overlay) -> bool:
    """Whether anything may be answered otherwise since the last change, or what changed is not told."""
    return overlay.content.spills or not overlay.journal or "memories" in overlay.journal[-1]


def _anew(overlay: Overlay, found: Mapping[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
    """Those of ``found`` that name, now or as they were asked before, what came last or what is silent."""
    names = _moving(overlay)
    return {number: texts for number, texts in found.items() if _named(names, (*texts, *overlay.written[number].asked))}


def _moving(overlay: Overlay) -> set[str]:
    """Names of what came last and of what is silent, as :func:`vademecum.editing.agreement.plain` has them."""
    came = overlay.journal[-1]["came"]
    moving = [number for number in range(len(overlay.written)) if number in came or number not in overlay.active]
    return {plain(name) for number in moving for name in _names(overlay.written[number].fact)}


def _named(names: set[str], texts: Sequence[str]) -> bool:
    """Whether one of ``names`` stands in one of ``texts``, or what a tokenizer may read as one."""
    return any(name in text for text in map(plain, texts) for name in names)


def _names(fact: Fact) -> tuple[str, ...]:
    return (fact.subject, *fact.spellings)


def _telling(*texts: str) -> set[str]:
    return {word for text in texts for word in TELLING.findall(text.casefold())}
