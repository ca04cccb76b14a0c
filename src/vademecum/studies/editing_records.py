"""Facts to be edited and what is asked about them: lands and cities that the host knows, each given another answer."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from vademecum.data.geonames import City, Land
from vademecum.editing import Fact
from vademecum.editing.facts import says

Truth = tuple[str, str, str]
"""A relation's name, a subject and the answer."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """What is asked of a subject.

    Attributes:
        name: of the relation.
        prompt: with a gap ``{}`` for the subject.
        paraphrases: other ways to ask, from which nothing is learned.
        negation: a text after which the answer would be wrong.
        two_hop: a text that asks what follows from the answer, or None.
    """

    name: str
    prompt: str
    paraphrases: tuple[str, ...]
    negation: str
    two_hop: str | None = None


RELATIONS: Mapping[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation(
            name="capital",
            prompt="The capital of {} is",
            paraphrases=(
                "I went to {}, whose capital is",
                "The capital city of {} is",
                "{} has its capital in",
                "Everybody knows that the capital of {} is the city of",
            ),
            negation="It is wrong to say that the capital of {} is",
            two_hop="The capital of {} lies in the country of",
        ),
        Relation(
            name="continent",
            prompt="{} is a country on the continent of",
            paraphrases=(
                "{} lies on the continent of",
                "The continent in which {} lies is",
                "{} is located in the continent of",
                "On a map, {} is found on the continent of",
            ),
            negation="It is wrong to say that {} is a country on the continent of",
        ),
        Relation(
            name="currency",
            prompt="The currency of {} is the",
            paraphrases=(
                "The money that is used in {} is the",
                "I changed money in {}, where the currency is the",
                "In {} all prices are given in the currency called the",
                "People in {} pay with the",
            ),
            negation="It is wrong to say that the currency of {} is the",
        ),
        Relation(
            name="country",
            prompt="{} is a city in the country of",
            paraphrases=(
                "The city of {} is located in the country of",
                "{} is one of the largest cities of",
                "The country in which the city of {} lies is",
                "I flew to {}, a city in",
            ),
            negation="It is wrong to say that {} is a city in the country of",
            two_hop="{} is a city on the continent of",
        ),
    )
}
#: Relations of lands.
OF_LANDS = ("capital", "continent", "currency")
#: What else is asked of a land, and of a city: nothing of it may change. None of it is a text that gates learn from.
OF_A_LAND = (
    "A traveller in {} should",
    "{} was founded in",
    "The national anthem of {} is called",
    "The prime minister of {} is",
    "The highest mountain in {} is",
    "A typical dish of {} is",
)
OF_A_CITY = (
    "A traveller in {} should",
    "{} was founded in",
    "The letter with which {} begins is",
    "The mayor of {} is",
    "The oldest building in {} is",
    "The football club of {} is called",
    "The streets of {} are",
)

#: Subjects that the host knows and that are never edited: others are asked about among them. A quarter at most.
LEFT = 100
#: How a subject and another are named before the other is asked about.
TURNS = ("I have been to {} and to {}. ", "{} and {} were in the news today. ")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One fact to be edited, and everything that is asked about it.

    Attributes:
        fact: what shall hold.
        relation: which.
        true: what the host says before, where that is right.
        paraphrases: other ways to ask.
        negation: where the target must not be said.
        same_subject: other things about the subject.
        neighbours: the same of other subjects, which are not edited.
        turned: the same of other subjects, after this one was named.
        two_hop: what follows from the fact, and the answer that then follows; None where nothing plain does.
        known: whether the host says the true answer.
    """

    fact: Fact
    relation: str
    true: str
    paraphrases: tuple[str, ...]
    negation: str
    same_subject: tuple[str, ...]
    neighbours: tuple[str, ...]
    turned: tuple[str, ...]
    two_hop: tuple[str, str] | None = field(default=None)
    known: bool = True


def truths(lands: Sequence[Land], cities: Sequence[City]) -> list[Truth]:
    """What is true of lands and cities: a relation's name, a subject and the answer."""
    by_code = {land.code: land for land in lands}
    found = [("capital", land.name, land.capital) for land in lands]
    found += [("continent", land.name, land.continent) for land in lands]
    found += [("currency", land.name, land.currency.lower()) for land in lands]
    return found + [("country", city.name, by_code[city.land].name) for city in cities if city.land in by_code]


def asked_for(truth: Truth) -> str:
    """The prompt that a truth answers."""
    return RELATIONS[truth[0]].prompt.replace("{}", truth[1])


def draw_of(said: Mapping[Truth, str], seed: int) -> tuple[list[Truth], list[Truth]]:
    """Truths in the order in which they are edited, and those that are left as they are, to be asked about as others.

    Neither depends on how many are edited. Those of which the host says the truth come first; every subject is in one
    list alone, with one truth where it is edited. What is left holds no other subject's name.

    Args:
        said: by truth, how the host goes on when it is asked for it.
        seed: of the draw.
    """
    known = {truth for truth, text in said.items() if answers(text, truth[2])}
    order = random.Random(seed).sample(sorted(said), len(said))
    order.sort(key=lambda truth: truth not in known)
    subjects = list(dict.fromkeys(truth[1] for truth in order if truth in known))
    every = dict.fromkeys(truth[1] for truth in order)
    # A name that holds another one holds its tokens: were the one edited, the other would be no other to its entry.
    left = {
        one
        for one in subjects[:: max(4, len(subjects) // LEFT)]
        if not any(other != one and (_named(other, one) or _named(one, other)) for other in every)
    }
    edited = {truth[1]: truth for truth in reversed(order) if truth[1] not in left}
    first = [truth for truth in order if edited.get(truth[1]) == truth]
    return first, [truth for truth in order if truth in known and truth[1] in left]


def _named(subject: str, text: str) -> bool:
    """Whether a word of ``text`` begins as ``subject`` does, and goes on with it."""
    return subject in text and re.search(rf"\b{re.escape(subject)}", text) is not None


def made(
    lands: Sequence[Land], said: Mapping[Truth, str], *, count: int, seed: int, without: Collection[str] = ()
) -> list[Record]:
    """``count`` records of subjects that are all different: first those of which the host says the truth.

    Which they are, what they shall become and what is asked about others depends on the seed and the subject alone, so
    that fewer records are the first of more.

    Args:
        lands: countries.
        said: by truth, how the host goes on when it is asked for it.
        count: how many at most.
        seed: of the draw.
        without: subjects that are not edited.
    """
    first, left = draw_of(said, seed)
    kinds = {name: sorted({answer for other, _, answer in said if other == name}) for name in RELATIONS}
    records: list[Record] = []
    for truth in first:
        if len(records) == count:
            break
        if truth[1] not in without:
            record = _record(lands, truth, said[truth], kinds[truth[0]], left, seed)
            records += [] if record is None else [record]
    return records


def _record(
    lands: Sequence[Land], truth: Truth, said: str, kind: Sequence[str], left: Sequence[Truth], seed: int
) -> Record | None:
    """A truth given another answer of its ``kind``, or None where there is none to give."""
    name, subject, true = truth
    relation, draw = RELATIONS[name], random.Random(f"{seed} {name} {subject}")
    # An answer that holds the subject, or is held by it, would be found in the prompt; one that the host gives already,
    # where it does not know the truth, would be no edit.
    free = [one for one in kind if one != true and subject not in one and one not in subject and not answers(said, one)]
    if not free:
        return None
    target = draw.choice(free)
    near = [other for other in left if other[0] == name]
    others = draw.sample(near, min(3, len(near)))
    same = [*(OF_A_CITY if name == "country" else OF_A_LAND)]
    if name != "country":
        # In words of its own: as a fact would ask for it, it may stand among what gates learn from.
        same += [RELATIONS[other].paraphrases[-1] for other in OF_LANDS if other != name]
    follows = _follows(name, target, lands)
    if follows == _follows(name, true, lands):
        follows = None  # it followed before, so it would show nothing
    hops = relation.two_hop is not None and follows is not None
    return Record(
        fact=Fact(subject=subject, prompt=asked_for(truth), target=target),
        relation=name,
        true=true,
        paraphrases=tuple(way.replace("{}", subject) for way in relation.paraphrases),
        negation=relation.negation.replace("{}", subject),
        same_subject=tuple(text.replace("{}", subject) for text in same),
        neighbours=tuple(map(asked_for, others)),
        turned=tuple(
            aside.format(subject, other[1]) + asked_for(other) for aside, other in zip(TURNS, others, strict=False)
        ),
        two_hop=(str(relation.two_hop).replace("{}", subject), str(follows)) if hops else None,
        known=answers(said, true),
    )


def answers(text: str, answer: str) -> bool:
    """Whether ``text`` begins with ``answer``, an article before either and capitals aside."""
    return says(_bare(text), _bare(answer))


def _bare(text: str) -> str:
    return text.strip().casefold().removeprefix("the ")


def _follows(name: str, target: str, lands: Sequence[Land]) -> str | None:
    """What follows from an answer: the land of a capital, the continent of a land."""
    if name == "capital":
        return next((land.name for land in lands if land.capital == target), None)
    if name == "country":
        return next((land.continent for land in lands if land.name == target), None)
    return None
