"""From facts to an edit: headwords from the tokenizer, gates from what the host thinks, rows by gradient."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vademecum import grafting, hosts
from vademecum.attached import ROOT, Memories
from vademecum.editing import fingerprint, prompts
from vademecum.editing.edit import Edit, fill, kind_of
from vademecum.editing.facts import Fact, require_agreement
from vademecum.editing.gates import discriminant
from vademecum.editing.locating import spelled, spellings, tokens_of
from vademecum.editing.overlay import Overlay, Written
from vademecum.editing.reading import as_it_was, greedy, padded, states

_log = logging.getLogger(__name__)

#: Steps of the rows at most, their size, and the probability of every target token at which they are enough.
STEPS, STEP_SIZE, ENOUGH = 24, 0.1, 0.9
#: Facts whose rows are learned side by side, ways to ask that they learn from, and subjects that a gate learns from.
TOGETHER, WAYS, SUBJECTS = 8, 6, 5
#: How much more than made ones a prompt counts that was given to be kept, and the divergence at which it is kept.
KEPT, CLOSE = 10.0, 0.02
#: What the token after the target counts, and the mean divergence there that is fluent enough.
AFTER, FLUENT = 0.3, 0.5
#: Tokens that a prompt to be kept must go on with as before.
KEPT_TOKENS = 3


@dataclass(frozen=True)
class Line:
    """A text to learn from: ``ids``, of which those from ``begin`` on are the target."""

    ids: list[int]
    begin: int


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
    chosen = tuple(range(depth // 2, depth)) if layers is None else tuple(sorted(set(layers)))
    heads = [headword(tokenizer, fact) for fact in facts]
    begun = time.perf_counter()
    with as_it_was(model):
        before = greedy(model, tokenizer, [fact.prompt for fact in facts], _longest(tokenizer, facts))
        _require_news(facts, before)
        relations = list(dict.fromkeys(fact.relation for fact in facts))
        gates = [gate_of(model, host, tokenizer, relation, facts, chosen) for relation in relations]
        looked = time.perf_counter() - begun
        overlay = Overlay(
            made_for=fingerprint.of(model, tokenizer),
            layers=chosen,
            written=tuple(
                Written(
                    fact=fact,
                    spellings=head,
                    gate=relations.index(fact.relation),
                    before=said,
                    after="",
                    seconds=looked / len(facts),
                )
                for fact, head, said in zip(facts, heads, before, strict=True)
            ),
            rows=torch.zeros(len(facts), len(chosen), host.shape.value_heads * host.shape.value_dim),
            gate_weights=torch.stack([weight for weight, _ in gates]).cpu(),
            gate_biases=torch.stack([bias for _, bias in gates]).cpu(),
            active=tuple(range(len(facts))),
        )
        overlay = _learned(model, tokenizer, overlay, progress)
    edit = Edit(model, dataclasses.replace(overlay, active=()).moved("add", overlay.active, ()))
    if edit.failed:
        _log.warning("%d of %d facts do not hold: %s", len(edit.failed), len(facts), "; ".join(edit.failed[:3]))
    return edit


def headword(tokenizer: Any, fact: Fact) -> tuple[tuple[int, ...], ...]:
    """Every spelling of a fact's subject, in token ids."""
    texts = [fact.prompt, *fact.paraphrases, *fact.keep]
    texts += [way.replace("{}", fact.subject) for way in prompts.paraphrases(fact)]
    return spellings(tokenizer, (fact.subject, *fact.spellings), texts)


def gate_of(
    model: nn.Module, host: hosts.Host, tokenizer: Any, relation: str, facts: Sequence[Fact], layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Weights ``[L, d]`` and biases ``[L]`` of the gate of all facts of ``relation``."""
    own = [fact for fact in facts if fact.relation == relation]
    ways = list(dict.fromkeys(way for fact in own[:SUBJECTS] for way in prompts.paraphrases(fact)))
    elsewhere = list(dict.fromkeys(text for fact in own[:SUBJECTS] for text in prompts.contrasts(fact, facts)))
    names = [fact.subject for fact in own[:SUBJECTS]]
    names += [name for name in prompts.SUBSTITUTES if name not in names][: max(0, SUBJECTS - len(names))]
    asked: list[tuple[list[int], list[int]]] = []
    other: list[tuple[list[int], list[int]]] = []
    weights: list[float] = []
    kept = {prompts.gapped(text, fact) for fact in own for text in fact.keep}
    for name in names:
        for way in ways:
            asked.append(_at_the_end(tokenizer, way.replace("{}", name)))
        for text in elsewhere:
            # A text that was given to be kept may name its subject in another way, or not at all.
            whole = text.replace("{}", name)
            ids = tokens_of(tokenizer, whole)
            start = spelled(tokenizer, whole, name)[1] if name in whole and _clean(tokenizer, whole, name) else 0
            other.append((ids, list(range(start, len(ids)))))
            weights += [KEPT if text in kept else 1.0] * (len(ids) - start)
    for fact in own[:SUBJECTS]:
        for way in ways[:WAYS]:
            line = line_of(tokenizer, way.replace("{}", fact.subject), fact.target)
            # While the target is being said it is still asked for; when it is said, no longer.
            asked.append((line.ids, list(range(line.begin - 1, len(line.ids) - 1))))
            said = tokens_of(tokenizer, f"{way.replace('{}', fact.subject)} {fact.target}{prompts.AFTERWARDS}")
            other.append((said, list(range(len(line.ids) - 1, len(said)))))
            weights += [1.0] * len(other[-1][1])
    seen = states(model, host, [*asked, *other], layers)
    count = sum(len(places) for _, places in asked)
    return discriminant(seen[:, :count], seen[:, count:], torch.tensor(weights))


def line_of(tokenizer: Any, prompt: str, target: str) -> Line:
    """``prompt`` and ``target`` as one text, and where the target begins."""
    ids, alone = tokens_of(tokenizer, f"{prompt} {target}"), tokens_of(tokenizer, prompt)
    begin = next((place for place, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b), len(alone))
    return Line(ids, max(1, min(begin, len(ids) - 1)))


def _learned(model: Any, tokenizer: Any, overlay: Overlay, progress: Callable[[int, int], None] | None) -> Overlay:
    """The overlay with its rows learned and what the model then says."""
    rows, written = overlay.rows.clone(), list(overlay.written)
    tokens = _longest(tokenizer, overlay.facts)
    for start in range(0, len(written), TOGETHER):
        begun = time.perf_counter()
        numbers = list(range(start, min(start + TOGETHER, len(written))))
        some = dataclasses.replace(overlay, active=tuple(numbers))
        kind = kind_of(some)
        built = grafting.extend(model, kind)
        try:
            for part in built.parts.values():
                part.float()  # rows are learned in fp32, whatever the host computes in
            fill(built, some)
            tables: list[Any] = [built.parts[layer].rows.weight for layer in overlay.layers]  # type: ignore[union-attr]
            lines = [
                [
                    line_of(tokenizer, way.replace("{}", one.fact.subject), one.fact.target)
                    for way in prompts.paraphrases(one.fact)[:WAYS]
                ]
                for one in some.speaking
            ]
            kept = [prompt for one in some.speaking for prompt in one.fact.keep]
            went = greedy(model, tokenizer, kept, KEPT_TOKENS)
            _descend(model, tables, lines, [tokens_of(tokenizer, prompt) for prompt in kept])
            said = greedy(model, tokenizer, [one.fact.prompt for one in some.speaking], tokens)
            goes = greedy(model, tokenizer, kept, KEPT_TOKENS)
            disturbed = {prompt for prompt, a, b in zip(kept, went, goes, strict=True) if a != b}
            rows[numbers] = torch.stack([table.detach().cpu() for table in tables], 1)
        finally:
            grafting.withdraw(model, kind)
        seconds = (time.perf_counter() - begun) / len(numbers)
        for number, after in zip(numbers, said, strict=True):
            one = written[number]
            moved = tuple(prompt for prompt in one.fact.keep if prompt in disturbed)
            written[number] = dataclasses.replace(one, after=after, disturbed=moved, seconds=one.seconds + seconds)
        if progress is not None:
            progress(start + len(numbers), len(written))
    return dataclasses.replace(overlay, written=tuple(written), rows=rows)


def _descend(
    model: Any, tables: Sequence[nn.Parameter], lines: Sequence[Sequence[Line]], kept: Sequence[list[int]]
) -> None:
    """Move ``tables``, which begin at zero, until the targets are said, whichever way they are asked for.

    Args:
        model: with the entries on it.
        tables: their rows, by layer.
        lines: by fact, what to learn from.
        kept: texts after which the model must say what it says now.
    """
    flat = [line for own in lines for line in own]
    stay = _Stay(model, kept)
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
    fair = torch.tensor([1.0 / len(lines[number]) for number in owner], device=ids.device)
    then: Tensor | None = None
    for table in tables:
        table.requires_grad_(True)
    optimizer = torch.optim.Adam(tables, lr=STEP_SIZE)
    with torch.enable_grad():
        for _ in range(STEPS):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            log_probability = logits[rows, places - 1].float().log_softmax(-1).gather(-1, wanted[:, None])[:, 0]
            now = logits[torch.arange(len(flat), device=ids.device), ends].float().log_softmax(-1)
            then = now.detach() if then is None else then
            after = (then.exp() * (then - now)).sum(-1)
            moved = stay.divergence()
            if bool(
                (log_probability.exp() >= ENOUGH).all()
                and (moved <= CLOSE).all()
                and (after * fair).sum() <= FLUENT * len(lines)
            ):
                break
            # Gradients of the rows alone are asked for: those of the host's weights are never made.
            loss = moved.sum() + AFTER * (after * fair).sum() - (log_probability * share).sum()
            found = torch.autograd.grad(loss, tables)
            for table, gradient in zip(tables, found, strict=True):
                table.grad = gradient
            optimizer.step()
    for table in tables:
        table.requires_grad_(False)
        table.grad = None


class _Stay:
    """How far the model has gone, at the end of texts, from what it says when this is made."""

    def __init__(self, model: Any, texts: Sequence[list[int]]) -> None:
        self._model, self._texts = model, texts
        if texts:
            ids, mask = padded(texts, left=False)
            self._given = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
            self._last = mask.sum(1) - 1
            with torch.no_grad():
                self._then = self._now()

    def divergence(self) -> Tensor:
        """``[texts]`` Kullback-Leibler divergence from then to now."""
        if not self._texts:
            return torch.zeros(0, device=self._model.device)
        return (self._then.exp() * (self._then - self._now())).sum(-1)

    def _now(self) -> Tensor:
        logits = self._model(**self._given, use_cache=False).logits
        found: Tensor = logits[torch.arange(len(logits)), self._last].float().log_softmax(-1)
        return found


def _at_the_end(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    ids = tokens_of(tokenizer, text)
    return ids, [len(ids) - 1]


def _clean(tokenizer: Any, text: str, subject: str) -> bool:
    try:
        spelled(tokenizer, text, subject)
    except ValueError:
        return False
    return True


def _longest(tokenizer: Any, facts: Sequence[Fact]) -> int:
    return 2 + max(len(tokens_of(tokenizer, f" {fact.target}")) for fact in facts)


def _require_news(facts: Sequence[Fact], before: Sequence[str]) -> None:
    for fact, said in zip(facts, before, strict=True):
        if said.strip().startswith(fact.target):
            raise ValueError(
                f"the model says {fact.target!r} to {fact.prompt!r} already; leave that fact out, or give another "
                f"target."
            )
