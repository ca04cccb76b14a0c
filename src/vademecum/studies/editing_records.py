"""Facts to be edited and what is asked about them: lands and cities that the host knows, each given another answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vademecum.data.geonames import City, Land
from vademecum.editing import Fact
from vademecum.editing.facts import says

Go = Callable[[Sequence[str]], list[str]]
"""How the host goes on after texts."""


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
#: What else is asked of a land, and of a city: nothing of it may change.
OF_A_LAND = (
    "The currency of {} is the",
    "The official language of {} is",
    "{} is famous for its",
    "The population of {} is",
    "A traveller in {} should",
    "The flag of {} has",
    "{} was founded in",
)
OF_A_CITY = (
    "The population of {} is",
    "{} is famous for its",
    "The mayor of {} is",
    "A traveller in {} should",
    "The oldest building in {} is",
    "The football club of {} is called",
    "{} was founded in",
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


def made(lands: Sequence[Land], cities: Sequence[City], go_on: Go, *, count: int, seed: int) -> list[Record]:
    """``count`` records of subjects that are all different: first those of which the host says the truth.

    Args:
        lands: countries.
        cities: cities of them.
        go_on: the host.
        count: how many at most.
        seed: of the draw.
    """
    draw = random.Random(seed)
    by_code = {land.code: land for land in lands}
    capitals = {land.capital: land for land in lands}
    truths: list[tuple[str, str, str]] = [("capital", land.name, land.capital) for land in lands]
    truths += [("continent", land.name, land.continent) for land in lands]
    truths += [("country", city.name, by_code[city.land].name) for city in cities if city.land in by_code]
    said = go_on([RELATIONS[name].prompt.replace("{}", subject) for name, subject, _ in truths])
    answers = dict(zip(truths, said, strict=True))
    known = {truth for truth, text in answers.items() if text.strip().startswith(truth[2])}
    objects = {name: sorted({answer for other, _, answer in truths if other == name}) for name in RELATIONS}
    order = draw.sample(truths, len(truths))
    order.sort(key=lambda truth: truth not in known)
    chosen: dict[str, tuple[str, str, str]] = {}
    for truth in order:
        if len(chosen) < count:
            chosen.setdefault(truth[1], truth)
    records: list[Record] = []
    for name, subject, true in chosen.values():
        relation = RELATIONS[name]
        # An answer that holds the subject, or is held by it, would be found in the prompt; one that the host gives
        # already, where it does not know the truth, would be no edit.
        already = answers[name, subject, true]
        free = [
            one
            for one in objects[name]
            if one != true and subject not in one and one not in subject and not says(already, one)
        ]
        if not free:
            continue
        target = draw.choice(free)
        fact = Fact(subject=subject, prompt=relation.prompt.replace("{}", subject), target=target)
        near = [other for other in known if other[0] == name and other[1] not in chosen]
        others = draw.sample(sorted(near), min(3, len(near)))
        same = [*(OF_A_CITY if name == "country" else OF_A_LAND)]
        if name != "country":
            same.append(RELATIONS["continent" if name == "capital" else "capital"].prompt)
        by_name = {land.name: land for land in lands}
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


def _follows(name: str, target: str, capitals: Mapping[str, Land], lands: Mapping[str, Land]) -> str | None:
    """What follows from an answer: the land of a capital, the continent of a land."""
    if name == "capital" and target in capitals:
        return capitals[target].name
    if name == "country" and target in lands:
        return lands[target].continent
    return None
