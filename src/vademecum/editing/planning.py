"""From facts to an edit: headwords from the tokenizer, what is said by gradient, all of it asked again."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from vademecum import hosts, interrupts
from vademecum.attached import ROOT, Memories
from vademecum.editing import fingerprint, prompts
from vademecum.editing.agreement import require_agreement, require_keeping
from vademecum.editing.damage import damage_of
from vademecum.editing.edit import Edit
from vademecum.editing.entries import AsEntries
from vademecum.editing.facts import Fact, says
from vademecum.editing.into_entries import into_entries
from vademecum.editing.into_rows import into_rows
from vademecum.editing.learning import answers_to, longest
from vademecum.editing.locating import clean, spellings, tokens_of
from vademecum.editing.measuring import measured
from vademecum.editing.overlay import Overlay
from vademecum.editing.reading import LOOKED_AT, as_it_was, greedy, padded, require_places
from vademecum.editing.rows import AsRows
from vademecum.editing.written import Written
from vademecum.memory.layers import Layers
from vademecum.memory.sites import SiteWrapper

_log = logging.getLogger(__name__)

#: Facts that one error names at most.
SHOWN = 5
#: Tokens of the longest headword: it is learned and asked for in dozens of texts.
LONGEST = 64
#: What facts can be planned into, and how.
PLANNERS: Mapping[str, Any] = MappingProxyType({AsEntries.name: into_entries, AsRows.name: into_rows})


def plan(
    model: nn.Module,
    facts: Sequence[Fact],
    tokenizer: Any,
    *,
    into: str = AsEntries.name,
    layers: Layers | None = None,
    texts: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    stage: Callable[[str], None] | None = None,
) -> Edit:
    """Work out how ``facts`` are written into ``model``, which afterwards is as it was, bit for bit.

    Args:
        model: a Transformers decoder with its head, bare or with memories.
        facts: that do not contradict each other.
        tokenizer: the model's, of the fast sort.
        into: ``"entries"``, which speak at a subject alone; or ``"rows"``, those of the model's own bank at the tokens
            that subjects end with, which speak wherever these tokens stand.
        layers: that entries speak in, numbers or a rule as in ``vm.MoVE(layers=...)``; the upper fifth, four at
            least, where not given, in which it is plain what is asked and of whom.
        texts: ordinary ones, one or more, on which the damage of changed rows is measured; the model's own writing
            where None.
        progress: called with how many facts are done, and of how many.
        stage: called with what is being done, such as "finding gates, 1 of 3", whenever that changes.

    Returns:
        An edit, not applied; what it could not make hold is in its ``failed``, and what changed rows do elsewhere in
        its ``damage``.

    Raises:
        ValueError: a subject is missing from its prompt, too long, or ends with no token, the model says the target
            already, is compiled or says no numbers, or facts contradict each other. The model is then as it was.
    """
    facts = _listed(facts)
    require_agreement(facts)
    require_keeping(facts)
    hosts.require_uncompiled(model)
    root = getattr(model, ROOT, None)
    host = root.host if isinstance(root, Memories) else hosts.find(model)
    if into not in PLANNERS:
        raise ValueError(f"plan(into={into!r}) was given; expected {' or '.join(map(repr, PLANNERS))}.")
    _require_learnable(model)
    _require_texts(texts)
    if isinstance(root, Memories) and root.muted:
        raise ValueError("the model's memories are silent (knocked_out); leave that block before facts are planned.")
    for fact in facts:
        _require_name(tokenizer, fact)
        _require_sayable(tokenizer, fact)
    heads = [headword(tokenizer, fact) for fact in facts]
    begun = time.perf_counter()
    with _modes_of_memories(model), as_it_was(model):
        _require_numbers(model, tokenizer, facts)
        before = greedy(model, tokenizer, [fact.prompt for fact in facts], longest(tokenizer, facts))
        _require_news(model, tokenizer, facts, before)
        looked = (time.perf_counter() - begun) / len(facts)
        written = [
            Written(fact=fact, spellings=head, before=said, after="", seconds=looked)
            for fact, head, said in zip(facts, heads, before, strict=True)
        ]
        how = {"layers": layers, "progress": progress, "stage": stage or (lambda _: None)}
        content, done = PLANNERS[into](model, host, tokenizer, written, **how)
        if not all(bool(one.isfinite().all()) for one in content.tensors().values()):
            raise ValueError(
                "what was learned is not finite, so it was left; load the model in torch.float32, where gradients have "
                "room."
            )
        overlay = Overlay(
            made_for=fingerprint.of(model, tokenizer), written=done, content=content, active=tuple(range(len(facts)))
        )
        overlay = measured(model, tokenizer, overlay)
        more = {"damage": damage_of(model, tokenizer, overlay, texts).to_dict()} if content.spills else {}
    edit = Edit(model, dataclasses.replace(overlay, active=()).moved("add", overlay.active, (), **more))
    if edit.failed:
        count = sum(not one.holds for one in edit.overlay.speaking)
        _log.warning("%d of %d facts do not hold: %s", count, len(facts), "; ".join(edit.failed[:3]))
    return edit


def _require_name(tokenizer: Any, fact: Fact) -> None:
    """Raise ValueError where the subject is longer than any name."""
    for name in (fact.subject, *fact.spellings):
        if (size := len(tokens_of(tokenizer, name))) > LONGEST:
            raise ValueError(
                f"the subject {name[:40]!r}... is {size} tokens long, and an entry stands under {LONGEST} at most; "
                f"give the name in it that tells what is asked about."
            )


def _require_sayable(tokenizer: Any, fact: Fact) -> None:
    """Raise ValueError where the tokenizer has no words for the target."""
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in tokens_of(tokenizer, f" {fact.target}"):
        raise ValueError(
            f"the tokenizer does not know the target {fact.target!r} and reads it like any other unknown word; no "
            f"model with this tokenizer can say it."
        )


@contextmanager
def _modes_of_memories(model: nn.Module) -> Iterator[None]:
    """Within the block entries come and go; what stands around a host's modules is then in their mode again.

    It is made anew every time, and a module that rests under it is not among the model's.
    """
    root = getattr(model, ROOT, None)
    sites = [site for _, _, site in root.sites()] if isinstance(root, Memories) else []
    hosts_own = [module for site in sites if isinstance(site, SiteWrapper) for module in site.original().modules()]
    modes = {module: module.training for module in hosts_own}
    try:
        yield
    finally:
        with interrupts.finished():
            for module, training in modes.items():
                module.training = training
            root = getattr(model, ROOT, None)
            if isinstance(root, Memories):
                root.follow()


def _require_learnable(model: Any) -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "plan was called within torch.inference_mode(), where nothing can be learned; leave that block, or write "
            "torch.no_grad() in its place."
        )
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        raise ValueError(
            f"plan was given a {type(model).__name__}, which has no head to say an answer with; load the model with "
            f"AutoModelForCausalLM."
        )


def _require_texts(texts: Any) -> None:
    if texts is None or (not isinstance(texts, str) and len(texts) and all(isinstance(one, str) for one in texts)):
        return
    raise ValueError(
        f"plan(texts={repr(texts)[:60]}) was given; expected a list of one or more texts, or None for the "
        f"model's own writing."
    )


def _require_numbers(model: Any, tokenizer: Any, facts: Sequence[Fact]) -> None:
    """Raise ValueError where what the model says of a prompt is no number: nothing is learned from that."""
    for start in range(0, len(facts), LOOKED_AT):
        some = [fact.prompt for fact in facts[start : start + LOOKED_AT]]
        ids, mask = padded([tokens_of(tokenizer, text) for text in some], left=False)
        require_places(model, ids.shape[1])
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
        lost = logits.isnan().any(-1).cpu() & mask.bool()
        if bool(lost.any()):
            raise ValueError(
                f"the model's logits for {some[int(lost.any(1).nonzero()[0])]!r} are not numbers (NaN), so nothing can "
                f"be learned from them; look for weights that are not finite, or load the model in torch.float32."
            )


def headword(tokenizer: Any, fact: Fact) -> tuple[tuple[int, ...], ...]:
    """Every spelling of a fact's subject, in token ids."""
    made = [way.replace("{}", fact.subject) for way in prompts.paraphrases(fact)]
    # What was given must be clean; of what is made, what is not is left out.
    texts = [fact.prompt, *fact.paraphrases, *(text for text in made if clean(tokenizer, text, fact.subject))]
    texts += [text for text in fact.keep if clean(tokenizer, text, fact.subject)]
    return spellings(tokenizer, (fact.subject, *fact.spellings), texts)


def _require_news(model: Any, tokenizer: Any, facts: Sequence[Fact], before: Sequence[str]) -> None:
    """Raise ValueError where the model says a target already, in every way that was given to ask for it."""
    own = [fact for fact, said in zip(facts, before, strict=True) if says(said, fact.target)]
    answers = answers_to(model, tokenizer, [fact for fact in own if len(fact.given) > 1])
    others = iter(answers)
    known = [
        f"{fact.target!r} to {fact.prompt!r}"
        for fact in own
        if len(fact.given) == 1 or all(says(said, fact.target) for said in next(others).values())
    ]
    if known:
        more = f", and {len(known) - SHOWN} of the other {len(facts) - SHOWN} facts" if len(known) > SHOWN else ""
        raise ValueError(
            f"the model says {'; '.join(known[:SHOWN])}{more} already; leave that out, give another target, or take "
            f"out the entry that says otherwise ('vademecum edit remove')."
        )


def _listed(facts: Any) -> list[Fact]:
    """The facts; ValueError where there are none or something else is among them."""
    found: list[Any] = [facts] if isinstance(facts, (Fact, str, bytes, Mapping)) else list(facts)
    other = facts if isinstance(facts, Fact) else next((one for one in found if not isinstance(one, Fact)), None)
    if not found or other is not None:
        raise ValueError(
            f"plan was given {'no facts' if other is None else repr(other)[:80]}; give a list of "
            f"vademecum.editing.Fact(subject=..., prompt=..., target=...)."
        )
    return found
