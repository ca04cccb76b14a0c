"""By gradient: several facts side by side, until the model says them whichever way it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vademecum import hosts
from vademecum.editing import prompts
from vademecum.editing.facts import Fact
from vademecum.editing.locating import clean, tokens_of
from vademecum.editing.reading import padded, went_on
from vademecum.editing.upper import Upper

#: Steps of the rows at most, their size, and the probability of every target token at which they are enough.
STEPS, STEP_SIZE, ENOUGH = 60, 0.1, 0.9
#: After so many steps their size is doubled: values of a small host are large, and most hosts are done before.
DOUBLED = 20
#: Facts that are learned side by side, and ways to ask that they learn from.
TOGETHER, WAYS = 8, 6
#: The divergence at which a prompt is kept, and the tokens that it must go on with as before.
CLOSE, KEPT_TOKENS = 0.02, 3
#: What the token after the target counts, and the mean divergence there that is fluent enough.
AFTER, FLUENT = 0.3, 0.5


@dataclass(frozen=True)
class Line:
    """A text to learn from: ``ids``, of which those from ``begin`` on are the target."""

    ids: list[int]
    begin: int


def descend(
    model: Any,
    host: hosts.Host,
    tables: Sequence[nn.Parameter],
    lines: Sequence[Sequence[Line]],
    kept: Sequence[list[int]],
    first: int,
    *,
    step: float = STEP_SIZE,
    keeping: float = 1.0,
) -> None:
    """Move ``tables``, which begin at zero, until the targets are said, whichever way they are asked for.

    Args:
        model: that reads ``tables``.
        host: the same, seen through its family's names.
        tables: what is learned.
        lines: by fact, what to learn from.
        kept: texts after which the model must say what it says now.
        first: the lowest layer that reads ``tables``.
        step: size of Adam's steps.
        keeping: what the divergence after a kept text counts, beside a fact's own loss.
    """
    flat = [line for own in lines for line in own]
    stay = _Stay(model, host, kept, first) if kept else None
    ids, mask = padded([line.ids for line in flat], left=False)
    ids, mask = ids.to(model.device), mask.to(model.device)
    owner = [number for number, own in enumerate(lines) for _ in own]
    spots = [(row, place) for row, line in enumerate(flat) for place in range(line.begin, len(line.ids))]
    rows = torch.tensor([row for row, _ in spots], device=ids.device)
    places = torch.tensor([place for _, place in spots], device=ids.device)
    wanted = ids[rows, places]
    # Every fact counts the same, every way to ask it, and every token of its target.
    share = torch.tensor(
        [1.0 / (len(lines[owner[row]]) * (len(flat[row].ids) - flat[row].begin)) for row, _ in spots], device=ids.device
    )
    # What comes after the target is the host's to say: rows that were read before it still lie in the cache.
    ends = torch.tensor([len(line.ids) - 1 for line in flat], device=ids.device)
    asked = torch.unique(torch.cat([places - 1, ends]))
    upper = Upper(model, host, ids, mask, first, asked)
    before, ends = torch.searchsorted(asked, places - 1), torch.searchsorted(asked, ends)
    fair = torch.tensor([1.0 / len(lines[number]) for number in owner], device=ids.device)
    then: Tensor | None = None
    for table in tables:
        table.requires_grad_(True)
    optimizer = torch.optim.Adam(tables, lr=step)
    with torch.enable_grad():
        for number in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = step * 2 ** (number // DOUBLED)
            logits = upper.logits()
            log_probability = logits[rows, before].float().log_softmax(-1).gather(-1, wanted[:, None])[:, 0]
            now = logits[torch.arange(len(flat), device=ids.device), ends].float().log_softmax(-1)
            then = now.detach() if then is None else then
            after = (then.exp() * (then - now)).sum(-1)
            moved = torch.zeros(0, device=ids.device) if stay is None else stay.divergence()
            if bool(
                (log_probability.exp() >= ENOUGH).all()
                and (moved <= CLOSE).all()
                and (after * fair).sum() <= FLUENT * len(lines)
            ):
                break
            # Gradients of the rows alone are asked for: those of the host's weights are never made.
            loss = keeping * moved.sum() + AFTER * (after * fair).sum() - (log_probability * share).sum()
            found = torch.autograd.grad(loss, tables)
            for table, gradient in zip(tables, found, strict=True):
                table.grad = gradient
            optimizer.step()
    for table in tables:
        table.requires_grad_(False)
        table.grad = None


class _Stay:
    """How far the model has gone, at the end of texts, from what it says when this is made."""

    def __init__(self, model: Any, host: hosts.Host, texts: Sequence[list[int]], first: int) -> None:
        ids, mask = padded(texts, left=False)
        ids, mask = ids.to(model.device), mask.to(model.device)
        ends = mask.sum(1) - 1
        asked = torch.unique(ends)
        self._upper = Upper(model, host, ids, mask, first, asked)
        self._places = torch.searchsorted(asked, ends)
        with torch.no_grad():
            self._then = self._now()

    def divergence(self) -> Tensor:
        """``[texts]`` Kullback-Leibler divergence from then to now."""
        return (self._then.exp() * (self._then - self._now())).sum(-1)

    def _now(self) -> Tensor:
        logits = self._upper.logits()
        found: Tensor = logits[torch.arange(len(logits), device=logits.device), self._places].float().log_softmax(-1)
        return found


def kept_steps(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """``texts`` and how the model goes on, cut before every token of that.

    A prompt is kept when what it went on with is still the likeliest, token by token.
    """
    ids = [tokens_of(tokenizer, text) for text in texts]
    whole = [one + then for one, then in zip(ids, went_on(model, ids, KEPT_TOKENS), strict=True)]
    return [one[: len(one) - back] for one in whole for back in range(1, KEPT_TOKENS + 1)]


def ways_of(tokenizer: Any, fact: Fact) -> list[str]:
    """Ways to ask for a fact in which a token ends with its subject."""
    made = [way.replace("{}", fact.subject) for way in prompts.paraphrases(fact)]
    return [text for text in made if clean(tokenizer, text, fact.subject)]


def line_of(tokenizer: Any, prompt: str, target: str) -> Line:
    """``prompt`` and ``target`` as one text, and where the target begins."""
    ids, alone = tokens_of(tokenizer, f"{prompt} {target}"), tokens_of(tokenizer, prompt)
    begin = next((place for place, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b), len(alone))
    return Line(ids, max(1, min(begin, len(ids) - 1)))


def longest(tokenizer: Any, facts: Sequence[Fact]) -> int:
    """Tokens that the model must say for the longest target to show, and two more."""
    return 2 + max(len(tokens_of(tokenizer, f" {fact.target}")) for fact in facts)
