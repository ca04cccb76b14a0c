"""Facts that contradict each other, in their own words or in others that ask the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vademecum.editing import prompts
from vademecum.editing.facts import Fact

Asked = tuple[str, str]
"""Of whom, and what, in small letters."""


def require_agreement(facts: Sequence[Fact], there: Iterable[Fact] = ()) -> None:
    """Raise ValueError where two facts contradict each other, or one is given twice.

    Args:
        facts: new ones.
        there: those that hold already.
    """
    own: dict[Asked, Fact] = {}
    ways: dict[Asked, Fact] = {}
    for fact in [*there, *facts]:
        for place in _asked(fact, [fact.relation]):
            if place in own and own[place].target == fact.target:
                raise ValueError(f"{fact.prompt!r} \u2192 {fact.target!r} is written twice; write it once.")
            own[place] = fact
        for place in _asked(fact, prompts.paraphrases(fact)):
            other = ways.setdefault(place, fact)
            if other.target != fact.target:
                same = "" if other.prompt == fact.prompt else f" (as {other.prompt!r} asks the same as {fact.prompt!r})"
                raise ValueError(
                    f"{fact.prompt!r} shall be answered {other.target!r} and {fact.target!r}{same}; give one of them, "
                    f"or change the one that is there ('vademecum edit change')."
                )


def require_keeping(facts: Sequence[Fact]) -> None:
    """Raise ValueError where one of ``facts``, planned together, keeps what one of them changes."""
    new = {place: fact for fact in facts for place in _asked(fact, prompts.paraphrases(fact))}
    for fact in facts:
        for text in fact.keep:
            changed = [new[place] for place in _asked(fact, [fact.gapped(text)]) if place in new]
            if changed:
                raise ValueError(
                    f"{text!r} is to be kept, and {changed[0].prompt!r} \u2192 {changed[0].target!r} changes what is "
                    f"said there; leave it out of keep."
                )


def _asked(fact: Fact, relations: Iterable[str]) -> Iterator[Asked]:
    names = {name.casefold() for name in (fact.subject, *fact.spellings)}
    for relation in dict.fromkeys(relation.casefold() for relation in relations):
        for name in names:
            yield name, relation
