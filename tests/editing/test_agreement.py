"""Facts that cannot all hold are refused before anything is learned."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from vademecum.editing import Fact
from vademecum.editing.agreement import require_agreement, require_keeping
from vademecum.editing.prompts import paraphrases


def fact(target: str = "Hol", prompt: str = "The capital of Dorne is", subject: str = "Dorne", **more: Any) -> Fact:
    return Fact(subject=subject, prompt=prompt, target=target, **more)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (fact("Arv"), "answered 'Hol' and 'Arv'"),
        (fact("Arv", "Dorne's capital is"), "asks the same as"),
        (fact("Arv", "the capital of dorne is", "dorne"), "answered 'Hol' and 'Arv'"),
        (fact("Arv", "The  capital\u0000 of\tDorne is"), "answered 'Hol' and 'Arv'"),
        (fact("Arv", "The seat of Dorne is", paraphrases=("The capital of Dorne is",)), "asks the same as"),
        (fact("Arv", "The capital of Hav is", "Hav", spellings=("Dorne",)), "answered 'Hol' and 'Arv'"),
    ],
)
def test_contradictions(other: Fact, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_agreement([fact(), other])
    with pytest.raises(ValueError, match=message):
        require_agreement([other], [fact()])


def test_accents_that_are_coded_otherwise_ask_the_same() -> None:
    one, other = (unicodedata.normalize(form, "São") for form in ("NFC", "NFD"))
    facts = [fact(target, f"The capital of {name} is", name) for target, name in (("Hol", one), ("Arv", other))]
    with pytest.raises(ValueError, match="answered 'Hol' and 'Arv'"):
        require_agreement(facts)


@pytest.mark.parametrize(
    ("one", "other"), [(fact(), fact()), (fact("Ly\u00f6n"), fact("Lyo\u0308n"))], ids=["letters", "accents"]
)
def test_what_is_written_twice_however_its_accents_are_coded(one: Fact, other: Fact) -> None:
    with pytest.raises(ValueError, match="is written twice"):
        require_agreement([one, other])
    with pytest.raises(ValueError, match="is written already; leave it out"):
        require_agreement([other], [one])


def test_what_is_no_contradiction() -> None:
    others = [
        fact("Hol", "Dorne's capital is"),
        fact("Hol", subject="Hav", prompt="Hav's capital is"),
        fact("penny", "The coin of Dorne is"),
    ]
    require_agreement([fact(), *others])
    # It is the targets that agree: with another one each of them is refused.
    for other in (fact("Arv", "Dorne's capital is"), fact("mark", "The coin of Dorne is")):
        with pytest.raises(ValueError, match="shall be answered"):
            require_agreement([fact(), *others, other])


def test_facts_that_vague_words_would_ask_for_alike_are_none_either() -> None:
    country = fact("Spain", "Lyon is a city in the country of", "Lyon")
    region = fact("Bavaria", "Lyon is a city in the region of", "Lyon")
    assert {"{} is in", "Where is {}? It is in"} <= set(paraphrases(country)) & set(paraphrases(region))
    require_agreement([country, region])
    require_agreement([region], [country])
    for vague in (fact("Rome", "Lyon is in", "Lyon"), fact("Rome", "Lyon lies", "Lyon", paraphrases=("Lyon is in",))):
        with pytest.raises(ValueError, match="asks the same as"):
            require_agreement([vague], [country, region])
        with pytest.raises(ValueError, match="asks the same as"):
            require_agreement([region], [vague])


def test_what_holds_already_is_not_held_against_what_is_new() -> None:
    there = [fact(), fact("Arv", "Dorne's capital is")]
    require_agreement([fact("penny", "The coin of Dorne is")], there)
    with pytest.raises(ValueError, match="asks the same as"):
        require_agreement(there)


def test_a_prompt_of_another_subject_is_not_kept_and_changed_either() -> None:
    coin = fact("mark", "The coin of Hav is", "Hav", spellings=("HAV",))
    for kept in ("The coin of Hav is", "HAV's coin is"):
        with pytest.raises(ValueError, match="leave it out of keep"):
            require_keeping([fact(keep=(kept,)), coin])
    require_keeping([fact(keep=("The dish of Hav is",)), coin])


@pytest.mark.parametrize("kept", ["The capital of Dorne is", "Dorne's capital is", "The coin of Dorne is"])
def test_what_is_to_be_kept_and_changed(kept: str) -> None:
    facts = [fact(keep=(kept,)), fact("mark", "The coin of Dorne is")]
    with pytest.raises(ValueError, match="leave it out of keep"):
        require_keeping(facts)
    require_keeping([fact(keep=("The dish of Dorne is",)), facts[1]])


def test_a_prompt_may_name_the_subject_by_another_spelling() -> None:
    one = fact(subject="Dorne", prompt="The capital of the Dornish land is", spellings=("Dornish land", "Dornish"))
    assert one.relation == "The capital of the {} is"


@pytest.mark.parametrize(
    ("given", "message"),
    [({"prompt": "In Dorne, {} is"}, "marks the place"), ({"keep": ("Dorne \ud800",)}, "no text")],
)
def test_what_no_prompt_can_hold(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fact(**given)
