"""Facts to be edited and what is asked about them: lands and cities that the host knows, each given another answer."""

from __future__ import annotations

import random
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


def made(
    lands: Sequence[Land], said: Mapping[Truth, str], *, count: int, seed: int, without: Collection[str] = ()
) -> list[Record]:
    """``count`` records of subjects that are all different: first those of which the host says the truth.

    Args:
        lands: countries.
        said: by truth, how the host goes on when it is asked for it.
        count: how many at most.
        seed: of the draw.
        without: subjects that are not edited.
    """
    draw = random.Random(seed)
    capitals, by_name = {land.capital: land for land in lands}, {land.name: land for land in lands}
    known = {truth for truth, text in said.items() if answers(text, truth[2])}
    objects = {name: sorted({answer for other, _, answer in said if other == name}) for name in RELATIONS}
    order = draw.sample(list(said), len(said))
    order.sort(key=lambda truth: truth not in known)
    chosen: dict[str, Truth] = {}
    for truth in order:
        if len(chosen) < count and truth[1] not in without:
            chosen.setdefault(truth[1], truth)
    records: list[Record] = []
    for name, subject, true in chosen.values():
        relation = RELATIONS[name]
        # An answer that holds the subject, or is held by it, would be found in the prompt; one that the host gives
        # already, where it does not know the truth, would be no edit.
        already = said[name, subject, true]
        free = [
            one
            for one in objects[name]
            if one != true and subject not in one and one not in subject and not answers(already, one)
        ]
        if not free:
            continue
        target = draw.choice(free)
        fact = Fact(subject=subject, prompt=relation.prompt.replace("{}", subject), target=target)
        near = [other for other in known if other[0] == name and other[1] not in chosen]
        others = draw.sample(sorted(near), min(3, len(near)))
        same = [*(OF_A_CITY if name == "country" else OF_A_LAND)]
        if name != "country":
            # In words of its own: as a fact would ask for it, it may stand among what gates learn from.
            same += [RELATIONS[other].paraphrases[-1] for other in OF_LANDS if other != name]
        follows = _follows(name, target, capitals, by_name)
        if follows == _follows(name, true, capitals, by_name):
            follows = None  # it followed before, so it would show nothing
        records.append(
            Record(
                fact=fact,
                relation=name,
                true=true,
                paraphrases=tuple(way.replace("{}", subject) for way in relation.paraphrases),
                negation=relation.negation.replace("{}", subject),
                same_subject=tuple(text.replace("{}", subject) for text in same),
                neighbours=tuple(relation.prompt.replace("{}", other[1]) for other in others),
                turned=tuple(
                    aside.format(subject, other[1]) + relation.prompt.replace("{}", other[1])
                    for aside, other in zip(TURNS, others, strict=False)
                ),
                two_hop=None
                if relation.two_hop is None or follows is None
                else (relation.two_hop.replace("{}", subject), follows),
                known=(name, subject, true) in known,
            )
        )
    return records


def answers(text: str, answer: str) -> bool:
    """Whether ``text`` begins with ``answer``, an article before it and capitals aside."""
    return says(text.strip().casefold().removeprefix("the "), answer.casefold())


def _follows(name: str, target: str, capitals: Mapping[str, Land], lands: Mapping[str, Land]) -> str | None:
    """What follows from an answer: the land of a capital, the continent of a land."""
    if name == "capital" and target in capitals:
        return capitals[target].name
    if name == "country" and target in lands:
        return lands[target].continent
    return None
