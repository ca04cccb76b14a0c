"""Prompts that are made: other ways to ask, and other things to ask of the same subject."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from vademecum.editing.facts import Fact

#: What may stand before a prompt without changing what it asks.
OPENINGS: Sequence[str] = (
    "As far as I know, {}",
    "Here is a fact. {}",
    "The weather was fine and we had time to read. {}",
)
#: Other ways to ask for the R of S, where a prompt reads "The R of S is".
POSSESSIVE = re.compile(
    r"^the (?P<what>[^{}]+?) of \{\} (?P<verb>is|was|are|were)(?P<rest>( [a-z]+){0,2})$", re.IGNORECASE
)
FORMS: Sequence[str] = (
    "{{}}'s {what} {verb}{rest}",
    "Q: What {verb} the {what} of {{}}? A:",
    "What {verb} the {what} of {{}}? The answer {verb}",
    "The {what} of {{}} is called",
)
#: The same where a prompt reads "S is a city in the R of", "S lies on the R of".
PLACED = re.compile(
    r"^\{\} (is|was|lies|lay|stands|stood)( located| situated| found)?( an?( [a-z]+){1,2})? (?P<where>in|on|at) the "
    r"(?P<what>[a-z]+) of$",
    re.IGNORECASE,
)
PLACES: Sequence[str] = (
    "{{}} belongs to the {what} of",
    "The {what} of {{}} is",
    "Q: {where} which {what} is {{}}? A: {where} the {what} of",
    "Where is {{}}? It is {where}",
    "We came to {{}}, {where} the {what} of",
    "{{}} is {where}",
)
#: Other things that texts say and ask of a subject: an entry must be silent in them.
CONTRASTS: Sequence[str] = (
    "{} is known for its",
    "{} is one of the most",
    "The history of {} began",
    "The name of {} comes from",
    "The population of {} is about",
    "The currency of {} is the",
    "The language of {} is",
    "The president of {} is",
    "The founder of {} was",
    "The color of {} is",
    "The size of {} is",
    "The mother of {} was",
    "{} was born in the year",
    "{} is located on the continent of",
    "{} plays the",
    "{} and its neighbours",
    "Many people think of {} when they",
    "My friend from {} said that",
    "He moved to {} because",
    "Yesterday in {}, the",
    "In {}, people speak",
    "In {} the most popular sport is",
    "Tourists visit {} to see",
    "A famous food from {} is",
    "The climate of {} is",
    "The flag of {} is",
    "The largest river in {} is",
    "The book about {} was written by",
    "I like {} and",
    "{} is a kind of",
)
#: Texts in which a subject was named and the same is asked of another: the subject's entry must be silent there,
#: and the other's, asked in its turn, must speak.
ASIDE: Sequence[str] = (
    "{} borders {}. ",
    "He left {} for {}. ",
    "First {}, then {}. ",
)
#: Prompts of other facts that count among those at most: gates of many relations would cost the square of their number.
RELATIONS = 30
#: How a text may go on when the target is said, and an entry has said what it had to say.
AFTERWARDS = ", which is well known. It is"
#: Subjects that stand in for a fact's own, so that a gate learns what is asked and not of whom.
SUBSTITUTES: Sequence[str] = (
    *("France", "Canada", "Egypt", "London", "Einstein", "Google", "Brazil", "Tokyo"),
    *("Spain", "Kenya", "Chicago", "India", "Madrid", "Vietnam", "Shakespeare", "Toyota"),
)


def paraphrases(fact: Fact) -> list[str]:
    """Other ways to ask what ``fact`` asks, its own first; with a gap ``{}`` where the subject stands."""
    own = [fact.relation, *(fact.gapped(text) for text in fact.paraphrases)]
    made = [
        form.format(**found.groupdict())
        for pattern, forms in ((POSSESSIVE, FORMS), (PLACED, PLACES))
        if (found := pattern.match(fact.relation))
        for form in forms
    ]
    return list(dict.fromkeys([*own, *made, *(opening.format(fact.relation) for opening in OPENINGS)]))


def contrasts(fact: Fact, others: Sequence[Fact] = ()) -> list[str]:
    """What else is said and asked of the subject, with a gap where it stands.

    Args:
        fact: whose own way of asking is left out.
        others: facts of other relations, which ask something else.
    """
    own = {_bare(text) for text in paraphrases(fact)}
    given = [fact.gapped(text) for text in fact.keep]
    asked = list(dict.fromkeys(other.relation for other in others if other.relation != fact.relation))
    if len(asked) > RELATIONS:
        asked = random.Random(fact.relation).sample(asked, RELATIONS)
    return [text for text in dict.fromkeys([*given, *asked, *CONTRASTS]) if _bare(text) not in own]


def turned(aside: str, way: str, subject: str, stranger: str) -> tuple[str, str]:
    """``subject`` named and ``stranger`` asked about by ``way``, and the other way round."""
    both = (subject, stranger), (stranger, subject)
    found = [aside.format(a, b) + way.replace("{}", b) for a, b in both]
    return found[0], found[1]


def _bare(text: str) -> str:
    return re.sub(r"\s+(the|a|an|in|at|called)$", "", text.casefold())
