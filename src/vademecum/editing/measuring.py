"""What the model says when all that was learned is on it."""

from __future__ import annotations

import dataclasses
from typing import Any

from vademecum.editing.agreement import answered, plain
from vademecum.editing.facts import says
from vademecum.editing.learning import KEPT_TOKENS, answers_to
from vademecum.editing.locating import tokens_of
from vademecum.editing.others import to_ask, touched
from vademecum.editing.overlay import Overlay
from vademecum.editing.reading import next_ids, went_on


def measured(model: Any, tokenizer: Any, overlay: Overlay) -> Overlay:
    """The overlay with what the model says when all of it is on.

    It is asked all that was given to be answered with the target, and all that is to be kept, of the facts that its
    last change may have touched; and what :func:`vademecum.editing.others.to_ask` draws, of which only how it begins is
    looked at: one forward each before and after.
    """
    own = touched(overlay)
    facts = [overlay.written[number].fact for number in own]
    kept = [text for one in facts for text in one.keep]
    if kept:
        # What one fact kept, a later one may have been written to answer: that is no harm done.
        elsewhere = answered(overlay.facts)
        kept = [text for text in kept if plain(text) not in elsewhere]
    stay = [tokens_of(tokenizer, text) for text in kept]
    went = went_on(model, stay, KEPT_TOKENS)
    others = to_ask(model, tokenizer, overlay)
    drawn = list(dict.fromkeys(text for texts in others.values() for text in texts))
    asked = [tokens_of(tokenizer, text) for text in drawn]
    began = next_ids(model, asked)
    with overlay.on(model):
        said = answers_to(model, tokenizer, facts)
        goes = went_on(model, stay, KEPT_TOKENS)
        begins = next_ids(model, asked)
    disturbed = {text for text, a, b in zip(kept, went, goes, strict=True) if a != b}
    moved = {text for text, a, b in zip(drawn, began, begins, strict=True) if a != b}
    written = list(overlay.written)
    for number, answers in zip(own, said, strict=True):
        one = written[number]
        after, target = answers[one.fact.prompt], one.fact.target
        unsaid = tuple(text for text, now in answers.items() if text != one.fact.prompt and not says(now, target))
        harmed = tuple(text for text in one.fact.keep if text in disturbed)
        written[number] = dataclasses.replace(one, after=after, unsaid=unsaid, unasked=(), disturbed=harmed)
    for number, texts in others.items():
        seen = tuple(text for text in texts if text in moved)
        written[number] = dataclasses.replace(written[number], asked=texts, moved=seen)
    return overlay.said_now(written)
