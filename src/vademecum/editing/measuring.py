"""What the model says when all that was learned is on it."""

from __future__ import annotations

import dataclasses
from typing import Any

from vademecum.editing.agreement import answered
from vademecum.editing.learning import KEPT_TOKENS, longest
from vademecum.editing.locating import tokens_of
from vademecum.editing.overlay import Overlay
from vademecum.editing.reading import greedy, went_on


def measured(model: Any, tokenizer: Any, overlay: Overlay) -> Overlay:
    """The overlay with what the model says when all of it is on, to every prompt and to all that is to be kept."""
    prompts_, kept = [one.prompt for one in overlay.facts], [text for one in overlay.facts for text in one.keep]
    if kept:
        # What one fact kept, a later one may have been written to answer: that is no harm done.
        elsewhere = answered(overlay.facts)
        kept = [text for text in kept if text.casefold() not in elsewhere]
    stay = [tokens_of(tokenizer, text) for text in kept]
    went = went_on(model, stay, KEPT_TOKENS)
    overlay.content.put(model, overlay)
    try:
        said = iter(greedy(model, tokenizer, prompts_, longest(tokenizer, overlay.facts)))
        goes = went_on(model, stay, KEPT_TOKENS)
    finally:
        overlay.content.take(model, overlay)
    moved = {text for text, a, b in zip(kept, went, goes, strict=True) if a != b}
    written = list(overlay.written)
    for number in overlay.active:
        disturbed = tuple(text for text in written[number].fact.keep if text in moved)
        written[number] = dataclasses.replace(written[number], after=next(said), disturbed=disturbed)
    return overlay.said_now(written)
