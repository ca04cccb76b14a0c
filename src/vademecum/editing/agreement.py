"""Facts that contradict each other, in their own words or in others that ask the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from vademecum.editing import prompts
from vademecum.editing.facts import Fact


def require_agreement(facts: Sequence[Fact], there: Iterable[Fact] = ()) -> None:
    """Raise ValueError where one of ``facts`` contradicts another or one of ``there``, or is given twice.

    Two contradict each other where the targets differ and a prompt that came with one asks for the other too, as it is
    given or in a way that is made of it. What is made of both is let pass: "Where is Lyon? It is in" asks for the
    country as well as for the region, and neither is wrong.

    Args:
        facts: new ones.
        there: those that hold already, whatever they say of each other.
    """
    there = list(there)
    own: dict[str, Fact] = {}
    given: dict[str, Fact] = {}
    ways: dict[str, list[Fact]] = {}
    for number, fact in enumerate([*there, *facts]):
        prompt, every = _asked(fact, [fact.relation]), _asked(fact, prompts.paraphrases(fact))
        came = [*prompt, *_asked(fact, [fact.gapped(text) for text in fact.paraphrases])]
        if number >= len(there):
            for other in (own[text] for text in prompt if text in own):
                if _same(other.target, fact.target):
                    raise ValueError(_twice(other, fact, there))
            against = [other for text in came for other in ways.get(text, ())]
            against += [given[text] for text in every if text in given]
            for other in against:
                if not _same(other.target, fact.target):
                    raise ValueError(_contradiction(other, fact))
        own.update((text, fact) for text in prompt)
        given.update((text, fact) for text in came)
        for text in every:
            ways.setdefault(text, []).append(fact)


def require_keeping(facts: Sequence[Fact]) -> None:
    """Raise ValueError where one of ``facts``, planned together, keeps what one of them changes."""
    changed = {text: fact for fact in facts for text in _asked(fact, prompts.paraphrases(fact))}
    for fact in facts:
        for kept in fact.keep:
            for text in _asked(fact, [fact.gapped(kept)]):
                if text in changed:
                    raise ValueError(
                        f"{kept!r} is to be kept, and {changed[text].prompt!r} \u2192 {changed[text].target!r} changes "
                        f"what is said there; leave it out of keep."
                    )


def answered(facts: Iterable[Fact]) -> set[str]:
    """As :func:`plain` has them, all texts that ask for one of ``facts``, in their own words or in others."""
    return {text for fact in facts for text in _asked(fact, prompts.paraphrases(fact))}


def _asked(fact: Fact, relations: Iterable[str]) -> list[str]:
    """``relations`` with every spelling of the subject in their gap, as :func:`plain` has them."""
    names = (fact.subject, *fact.spellings)
    return list(dict.fromkeys(plain(relation.replace("{}", name)) for relation in relations for name in names))


def plain(text: str) -> str:
    """``text`` in small letters, with single spaces, without control characters, its accents coded in one way.

    Tokenizers make these alike too, so that what differs in them alone asks the same.
    """
    shown = "".join(one for one in text if one.isspace() or unicodedata.category(one) != "Cc")
    return " ".join(unicodedata.normalize("NFC", shown).casefold().split())


def _same(target: str, other: str) -> bool:
    return unicodedata.normalize("NFC", target) == unicodedata.normalize("NFC", other)


def _twice(other: Fact, fact: Fact, there: Sequence[Fact]) -> str:
    what = f"{fact.prompt!r} \u2192 {fact.target!r}"
    if any(other is one for one in there):
        of = "" if plain(other.subject) == plain(fact.subject) else f" (of {other.subject!r})"
        return f"{what} is written already{of}; leave it out, or change what is there ('vademecum edit change')."
    return f"{what} is written twice; write it once."


def _contradiction(other: Fact, fact: Fact) -> str:
    same = "" if other.prompt == fact.prompt else f" (as {other.prompt!r} asks the same as {fact.prompt!r})"
    return (
        f"{fact.prompt!r} shall be answered {other.target!r} and {fact.target!r}{same}; give one of them, or change "
        f"the one that is there ('vademecum edit change') or take it out ('vademecum edit remove')."
    )
