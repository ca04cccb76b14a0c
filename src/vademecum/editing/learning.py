"""By gradient: several facts side by side, until the model says them whichever way it is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vademecum import hosts
from vademecum.editing import prompts
from vademecum.editing.facts import Fact
from vademecum.editing.locating import clean, tokens_of
from vademecum.editing.reading import greedy, padded, went_on
from vademecum.editing.upper import Upper

#: The probability of every target token at which a fact is said well enough.
ENOUGH = 0.9
#: Facts that are learned side by side, and ways to ask that they learn from.
TOGETHER, WAYS = 8, 6
#: Prompts in which is measured what the host's values are like.
MEASURED = 16
#: The divergence at which a prompt is kept, and the tokens that it must go on with as before.
CLOSE, KEPT_TOKENS = 0.02, 3
#: What the token after the target counts, and the mean divergence there that is fluent enough.
AFTER, FLUENT = 0.3, 0.5


@dataclass(frozen=True)
class Pace:
    """How rows are moved.

    Attributes:
        steps: at most.
        size: of a step, in what a host's values measure.
        doubled: after so many steps their size is doubled.
    """

    steps: int
    size: float
    doubled: int


#: In few layers much must be said, so steps grow; most hosts are done before.
FIRST = Pace(60, 0.16, 15)
#: What is missed is learned again: at one size, and a smaller one, where it was overshot; then, where it was not
#: reached, in the sizes of the first time with twice as many steps of each.
AGAIN = (Pace(120, 0.08, 120), Pace(120, 0.16, 30))


@dataclass(frozen=True)
class Line:
    """A text to learn from.

    Attributes:
        ids: the text.
        begin: where the target begins in it.
        due: whether it is waited for, however the host answers it.
    """

    ids: list[int]
    begin: int
    due: bool = False


def descend(
    model: Any,
    host: hosts.Host,
    tables: Sequence[nn.Parameter],
    lines: Sequence[Sequence[Line]],
    kept: Sequence[list[int]],
    first: int,
    *,
    values: Sequence[float],
    keeping: float = 1.0,
    apart: bool = False,
    pace: Pace,
) -> None:
    """Move ``tables``, which begin at zero, until the targets are said, whichever way they are asked for.

    Args:
        model: that reads ``tables``.
        host: the same, seen through its family's names.
        tables: what is learned, ``[facts, ...]``.
        lines: by fact, what to learn from.
        kept: texts after which the model must say what it says now.
        first: the lowest layer that reads ``tables``.
        values: by table, what the host's values measure that it is added to: steps are a share of it.
        keeping: what the divergence after a kept text counts, beside a fact's own loss.
        apart: no fact needs another's rows, so each is left as it is once it is said well enough, and the others go on
            without it; what is learned of a fact does not depend on those beside it then. Not so where texts are kept.
        pace: of the steps.
    """
    stay = _Stay(model, host, kept, first) if kept else None
    asked, going = _Asked(model, host, lines, first), torch.arange(len(lines))
    for table in tables:
        table.requires_grad_(True)
    steps = [pace.size * value for value in values]
    optimizer = torch.optim.Adam([{"params": [table], "lr": step} for table, step in zip(tables, steps, strict=True)])
    with torch.enable_grad():
        for number in range(pace.steps):
            for group, step in zip(optimizer.param_groups, steps, strict=True):
                group["lr"] = step * 2 ** (number // pace.doubled)
            losses, enough = asked.look()
            moved = losses.new_zeros(0) if stay is None else stay.divergence()
            if bool(enough.all() and (moved <= CLOSE).all()):
                break
            learned = ~enough if apart and stay is None else torch.ones_like(enough)
            # Gradients of the rows alone are asked for: those of the host's weights are never made.
            found = torch.autograd.grad(keeping * moved.sum() + losses[learned].sum(), tables)
            chosen = going[learned.cpu()]
            _step(optimizer, tables, found, chosen)
            if len(chosen) < len(going):
                asked, going = asked.some(learned.nonzero()[:, 0].tolist()), chosen
    for table in tables:
        table.requires_grad_(False)
        table.grad = None


def _step(
    optimizer: torch.optim.Optimizer, tables: Sequence[nn.Parameter], found: Sequence[Tensor], chosen: Tensor
) -> None:
    """Move the rows ``chosen``; others would go on by what Adam remembers of them."""
    were = [table.detach().clone() for table in tables]
    for table, gradient in zip(tables, found, strict=True):
        table.grad = gradient
    optimizer.step()
    with torch.no_grad():
        for table, were_ in zip(tables, were, strict=True):
            own = chosen.to(table.device)
            table.copy_(were_.index_copy(0, own, table[own]))


class _Asked:
    """How well the model says what facts want, asked in several ways each."""

    def __init__(
        self,
        model: Any,
        host: hosts.Host,
        lines: Sequence[Sequence[Line]],
        first: int,
        begun: tuple[Tensor, Tensor] | None = None,
        upper: Upper | None = None,
    ) -> None:
        self._given = (model, host, lines, first)
        flat = [line for own in lines for line in own]
        ids, mask = padded([line.ids for line in flat], left=False)
        ids, mask = ids.to(model.device), mask.to(model.device)
        owner = [number for number, own in enumerate(lines) for _ in own]
        spots = [(row, place) for row, line in enumerate(flat) for place in range(line.begin, len(line.ids))]
        self._rows = torch.tensor([row for row, _ in spots], device=ids.device)
        places = torch.tensor([place for _, place in spots], device=ids.device)
        self._wanted = ids[self._rows, places]
        # Every fact counts the same, every way to ask it, and every token of its target.
        share = [1.0 / (len(lines[owner[row]]) * (len(flat[row].ids) - flat[row].begin)) for row, _ in spots]
        self._share = torch.tensor(share, device=ids.device)
        self._fair = torch.tensor([1.0 / len(lines[number]) for number in owner], device=ids.device)
        self._owner = torch.tensor(owner, device=ids.device)
        self._due = torch.tensor([line.due for line in flat], device=ids.device)
        # What comes after the target is the host's to say: rows that were read before it still lie in the cache.
        ends = torch.tensor([len(line.ids) - 1 for line in flat], device=ids.device)
        at = torch.cat([self._rows, torch.arange(len(flat), device=ids.device)]), torch.cat([places - 1, ends])
        self._upper = Upper(model, host, ids, mask, first, *at) if upper is None else upper.at(*at)
        self._begins = torch.searchsorted(self._rows, torch.arange(len(flat), device=ids.device))
        # Each fact's own prompt comes first of its lines.
        self._own = torch.searchsorted(self._owner, self._owner)
        self._begun = begun

    def look(self) -> tuple[Tensor, Tensor]:
        """Each fact's loss ``[F]``, and whether it is said well enough: every token of it, and what comes after.

        A way to ask that nobody gave, and that the host does not answer as it answers the fact's own prompt, may ask
        something else in its eyes: it is learned from, but not waited for.
        """
        logits = self._upper.logits()
        asked, after_it = logits[: len(self._rows)], logits[len(self._rows) :]
        said = asked.float().log_softmax(-1).gather(-1, self._wanted[:, None])[:, 0]
        now = after_it.float().log_softmax(-1)
        if self._begun is None:
            answers = asked[self._begins].argmax(-1)
            self._begun = now.detach(), (answers == answers[self._own]) | self._due
        then, same = self._begun
        after = (then.exp() * (then - now)).sum(-1) * self._fair
        nothing = said.new_zeros(len(self._given[2]))
        spoilt = nothing.index_add(0, self._owner, after)
        unsaid = (said.detach().exp() < ENOUGH) & same[self._rows]
        missing = nothing.index_add(0, self._owner[self._rows], unsaid.float())
        losses = AFTER * spoilt - nothing.index_add(0, self._owner[self._rows], said * self._share)
        return losses, (missing == 0) & (spoilt.detach() <= FLUENT)

    def some(self, numbers: Sequence[int]) -> _Asked:
        """Of some facts alone, by their numbers here."""
        model, host, lines, first = self._given
        staying = torch.isin(self._owner.cpu(), torch.tensor(numbers)).to(self._owner.device)
        begun = None if self._begun is None else (self._begun[0][staying], self._begun[1][staying])
        upper = self._upper.some(staying.nonzero()[:, 0])
        return _Asked(model, host, [lines[number] for number in numbers], first, begun, upper)


class _Stay:
    """How far the model has gone, at the end of texts, from what it says when this is made."""

    def __init__(self, model: Any, host: hosts.Host, texts: Sequence[list[int]], first: int) -> None:
        ids, mask = padded(texts, left=False)
        ids, mask = ids.to(model.device), mask.to(model.device)
        rows = torch.arange(len(texts), device=ids.device)
        self._upper = Upper(model, host, ids, mask, first, rows, mask.sum(1) - 1)
        with torch.no_grad():
            self._then = self._now()

    def divergence(self) -> Tensor:
        """``[texts]`` Kullback-Leibler divergence from then to now."""
        return (self._then.exp() * (self._then - self._now())).sum(-1)

    def _now(self) -> Tensor:
        return self._upper.logits().float().log_softmax(-1)


def kept_steps(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """``texts`` and how the model goes on, cut before every token of that.

    A prompt is kept when what it went on with is still the likeliest, token by token.
    """
    ids = [tokens_of(tokenizer, text) for text in texts]
    whole = [one + then for one, then in zip(ids, went_on(model, ids, KEPT_TOKENS), strict=True)]
    return [one[: len(one) - back] for one in whole for back in range(1, KEPT_TOKENS + 1)]


def ways_of(tokenizer: Any, fact: Fact) -> list[str]:
    """Ways to ask for a fact in which a token ends with its subject; its own prompt first, as it was given."""
    made = [way.replace("{}", fact.subject) for way in prompts.paraphrases(fact)]
    return list(dict.fromkeys([fact.prompt, *(text for text in made if clean(tokenizer, text, fact.subject))]))


def lessons_of(tokenizer: Any, fact: Fact) -> list[str]:
    """What is learned from: :data:`WAYS` ways to ask, and all that was given in which an entry has a place to speak."""
    names = (fact.subject, *fact.spellings)
    given = (text for text in fact.given if any(name in text and clean(tokenizer, text, name) for name in names))
    return list(dict.fromkeys([*ways_of(tokenizer, fact)[:WAYS], *given]))


def lines_of(tokenizer: Any, fact: Fact) -> list[Line]:
    """What is learned of a fact: :func:`lessons_of`, of which all that was given is waited for."""
    return [
        dataclasses.replace(line_of(tokenizer, text, fact.target), due=text in fact.given)
        for text in lessons_of(tokenizer, fact)
    ]


def line_of(tokenizer: Any, prompt: str, target: str) -> Line:
    """``prompt`` and ``target`` as one text, and where the target begins."""
    ids, alone = tokens_of(tokenizer, f"{prompt} {target}"), tokens_of(tokenizer, prompt)
    begin = next((place for place, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b), len(alone))
    return Line(ids, max(1, min(begin, len(ids) - 1)))


def answers_to(model: Any, tokenizer: Any, facts: Sequence[Fact]) -> list[dict[str, str]]:
    """By fact, what the model says to each of the texts that were given to be answered with the target."""
    if not facts:
        return []
    texts = [text for fact in facts for text in fact.given]
    said = iter(greedy(model, tokenizer, texts, longest(tokenizer, facts)))
    return [{text: next(said) for text in fact.given} for fact in facts]


def longest(tokenizer: Any, facts: Sequence[Fact]) -> int:
    """Tokens that the model must say for the longest target to show, and two more."""
    return 2 + max(len(tokens_of(tokenizer, f" {fact.target}")) for fact in facts)
