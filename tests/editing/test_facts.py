"""Facts as data, the prompts that are made of them, and where their subject lies among tokens."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from vademecum.editing import Fact, facts, prompts
from vademecum.editing.facts import read, says
from vademecum.editing.locating import spelled, spellings

FRANCE = Fact(subject="France", prompt="The capital of France is", target="Lyon")


def test_a_fact_survives_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    more = Fact(subject="Hav", prompt="In Hav they eat", target="pie", spellings=("HAV",), keep=("Hav is",))
    path.write_text("\n\n".join(json.dumps(one.to_dict()) for one in (FRANCE, more)) + "\n", encoding="utf-8")
    assert facts.read(path) == [FRANCE, more]


def test_a_mark_at_the_beginning_and_odd_line_ends_are_let_pass(tmp_path: Path) -> None:
    odd = Fact(subject="Hav", prompt="In Hav, they\u2028eat", target="pie")
    lines = "\r\n".join(json.dumps(one.to_dict(), ensure_ascii=False) for one in (FRANCE, odd))
    (tmp_path / "facts.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert facts.read(tmp_path / "facts.jsonl") == [FRANCE, odd]


def test_a_target_counts_as_a_whole_word() -> None:
    assert facts.says(" Ottawa.", "Ottawa")
    assert not facts.says(" Ottawa.", "Ott")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        *[("5.3 million", "5"), ("1,000", "1"), ("10", "1")],
        *[("\u0926\u093f\u0932\u094d\u0932\u0940", "\u0926\u093f\u0932"), ("\u0e01\u0e35\u0e48", "\u0e01")],
        ("\U0001f469\u200d\U0001f467", "\U0001f469"),
    ],
)
def test_a_part_of_a_number_of_a_word_in_any_script_or_of_a_picture_is_not_said(text: str, target: str) -> None:
    assert not facts.says(text, target)
    assert facts.says(text, text)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        *[("5. It is", "5"), ("5, it is", "5"), ("Lyon's", "Lyon"), ("Lyon\u2014", "Lyon")],
        *[("\u6771\u4eac\u3067\u3059", "\u6771\u4eac"), ("\u6771\u4eac\u3002", "\u6771\u4eac")],
    ],
)
def test_what_follows_a_target_and_does_not_go_on_with_it(text: str, target: str) -> None:
    assert facts.says(text, target)


def test_all_that_was_given_is_the_prompt_in_every_spelling_and_of_the_subject_itself() -> None:
    fact = Fact(subject="France", spellings=("FRANCE", "Gaul"), prompt="The capital of Gaul is", target="Lyon")
    assert fact.given == ("The capital of Gaul is", "The capital of France is", "The capital of FRANCE is")
    assert FRANCE.given == ("The capital of France is",)


def test_accents_that_are_coded_otherwise_in_subject_and_prompt_are_named() -> None:
    prompt = unicodedata.normalize("NFD", "The owner of Caf\u00e9 is")
    with pytest.raises(ValueError, match="code them in one way"):
        Fact(subject="Caf\u00e9", prompt=prompt, target="Ann")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 1 is no JSON \(Expecting"),
        ("[]", "line 1: expected an object"),
        ('{"subject": "a", "prompt": "a is"}', "'target' missing"),
        ('{"subject": "a", "prompt": "a is", "target": "b", "tone": 1}', "no field 'tone'"),
        ('{"subject": "a", "prompt": "a is", "target": ""}', "target=''"),
        ('{"subject": "Spain", "prompt": "The sea is", "target": "b"}', "'Spain' is not in the prompt 'The sea is'"),
        ('{"subject": "a", "prompt": "a is", "target": "b", "keep": "text"}', "expected a list of texts"),
        ('{"subject": "a", "prompt": "a is", "target": "b", "keep": null}', "expected a list of texts"),
        ("", "has no facts"),
    ],
)
def test_a_line_that_is_no_fact_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "facts.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        facts.read(tmp_path / "facts.jsonl")


def test_other_ways_to_ask_are_made() -> None:
    ways = prompts.paraphrases(FRANCE)
    assert ways[0] == "The capital of {} is"
    assert "{}'s capital is" in ways
    assert "Q: What is the capital of {}? A:" in ways
    assert len(set(ways)) == len(ways)
    plain = prompts.paraphrases(Fact(subject="Hav", prompt="Hav lies in", target="Asia"))
    assert plain[0] == "{} lies in"
    assert all("{} lies in" in way for way in plain)


def test_contrasts_leave_out_what_is_asked() -> None:
    coin = Fact(subject="France", prompt="The currency of France is", target="ducat", keep=("France won",))
    against = prompts.contrasts(coin, [FRANCE])
    assert not any(text.startswith("The currency of {} is") for text in against)
    assert "{} won" in against
    assert "The capital of {} is" in against


def test_a_folder_and_no_file_are_no_facts(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder; give a file of facts"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no file; give one of facts"):
        read(tmp_path / "none.jsonl")


def test_a_target_counts_however_its_accents_are_coded() -> None:
    assert says(unicodedata.normalize("NFC", " São Paulo"), unicodedata.normalize("NFD", "São"))


def test_a_subject_within_another_word_is_none_but_where_words_have_no_ends() -> None:
    fact = Fact(subject="US", prompt="The capital of the US, which the USA is, is", target="Lyon")
    assert fact.relation == "The capital of the {}, which the USA is, is"
    assert Fact(subject="法国", prompt="法国的首都是", target="里昂").relation == "{}的首都是"


def test_brackets_in_a_subject_are_no_gap() -> None:
    fact = Fact(subject="int[]", prompt="The length of int[] is", target="fixed")
    asked = prompts.turned(prompts.ASIDE[0], fact.relation, fact.subject, "list[]")
    assert asked[0] == "int[] borders list[]. The length of list[] is"
    assert asked[1] == "list[] borders int[]. The length of int[] is"


def test_where_a_subject_lies(words: Any) -> None:
    ids, last = spelled(words, "The capital of San Lorenzo is", "San Lorenzo")
    assert (words.decode(ids), last) == ("San Lorenzo", 4)
    assert spellings(words, ["San Lorenzo"], []) == (ids,)
    assert spelled(words, "Dorne people of Dorne", "Dorne")[1] == 3
    with pytest.raises(ValueError, match="does not know 'Zembla'"):
        spelled(words, "The capital of Zembla is", "Zembla")
    with pytest.raises(ValueError, match="is not in"):
        spelled(words, "The capital", "Dorne")
