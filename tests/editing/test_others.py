"""Prompts that nobody gave are drawn for every fact, and asked again with all entries on."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from tests import tiny
from tests.editing import world
from vademecum import editing, files
from vademecum.editing import overlay, prompts
from vademecum.editing.measuring import measured
from vademecum.editing.others import DRAWN, to_ask, touched
from vademecum.editing.overlay import Overlay
from vademecum.editing.reading import greedy, next_ids
from vademecum.editing.telling import line_of
from vademecum.editing.written import Written

CAPITAL = editing.Fact(subject="Dorne", prompt="The capital of Dorne is", target="Hol")
COIN = editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")


def of(*facts: editing.Fact, spills: bool = True) -> Overlay:
    """An overlay that says nothing."""
    written = tuple(Written(fact=fact, spellings=((5,),), before="", after="", seconds=0.0) for fact in facts)
    content: Any = SimpleNamespace(spills=spills, name="entries", said=lambda number: b"")
    return Overlay(made_for={}, written=written, content=content, active=tuple(range(len(facts))))


def loud(one: Overlay) -> Overlay:
    """The same entries, which speak loudly in every text with their subject."""
    content: Any = one.content
    names = ("gate_weights", "gate_biases", "whom_weights", "whom_biases")
    open_ = {name: torch.zeros_like(getattr(content, name)) for name in names}
    return dataclasses.replace(one, content=dataclasses.replace(content, rows=20 * content.rows, **open_))


@pytest.fixture
def neighbours(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Lands of the small world as subjects that stand in for others."""
    found = ("Aland", "Borduria", "Cascara", "Elbonia", "Genovia")
    monkeypatch.setattr(prompts, "SUBSTITUTES", found)
    return found


def test_three_other_things_about_the_subject_are_drawn_and_a_neighbour_after_it_was_named(
    taught: Any, words: Any, neighbours: tuple[str, ...]
) -> None:
    *about, aside = to_ask(taught, words, of(CAPITAL))[0]
    assert len(set(about)) == DRAWN == 3
    assert {text.replace("Dorne", "{}") for text in about} <= set(prompts.CONTRASTS)
    assert aside in {
        prompts.turned(form, "The capital of {} is", "Dorne", name)[0] for form in prompts.ASIDE for name in neighbours
    }


def test_the_draw_depends_on_the_facts_subject_and_prompt_alone(
    taught: Any, words: Any, neighbours: tuple[str, ...]
) -> None:
    drawn = to_ask(taught, words, of(CAPITAL))[0]
    assert to_ask(taught, words, of(COIN, CAPITAL))[1] == drawn
    assert to_ask(taught, words, of(dataclasses.replace(CAPITAL, target="Arv")))[0] == drawn
    assert to_ask(taught, words, of(COIN))[0] != tuple(text.replace("Dorne", "Hav") for text in drawn)


def test_what_is_given_answered_or_asks_the_same_in_other_words_is_not_drawn(
    taught: Any, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = ("The color of {} is", "The size of {} is", "The flag of {} is", "{} plays the", "The climate of {} is")
    monkeypatch.setattr(prompts, "CONTRASTS", about)
    flag = editing.Fact(subject="Dorne", prompt="The proud flag of Dorne is", target="mark")
    size = editing.Fact(subject="Dorne", prompt="The capital of Dorne is", target="Hol", keep=("The size of Dorne is",))
    plays = editing.Fact(subject="Dorne", prompt="Dorne plays the", target="real")
    found = to_ask(taught, words, of(flag, size, plays))
    assert set(found[0]) == {"The color of Dorne is", "The size of Dorne is", "The climate of Dorne is"}
    assert set(found[1]) == {"The color of Dorne is", "The climate of Dorne is"}


def test_a_neighbour_is_none_that_a_fact_is_about_nor_if_there_are_enough_one_that_gates_learn_from(
    taught: Any, words: Any, neighbours: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [editing.Fact(subject=name, prompt=f"The coin of {name} is", target="peso") for name in neighbours[:4]]
    assert to_ask(taught, words, of(CAPITAL, *asked))[0][-1].endswith("The capital of Genovia is")
    all_of_them = editing.Fact(subject="Genovia", prompt="The coin of Genovia is", target="peso")
    assert len(to_ask(taught, words, of(CAPITAL, *asked, all_of_them))[0]) == DRAWN
    monkeypatch.setattr("vademecum.editing.others.OTHERS", 4)
    lands = [land for land in world.LANDS if land not in (*neighbours, "San Lorenzo")]
    for land in lands:
        fact = editing.Fact(subject=land, prompt=f"The capital of {land} is", target="Lor")
        assert to_ask(taught, words, of(fact))[0][-1].endswith("The capital of Genovia is")


def test_the_neighbour_is_the_one_that_is_most_like_the_subject(
    model: Any, words: Any, neighbours: tuple[str, ...]
) -> None:
    table = model.get_input_embeddings().weight.data
    for name in neighbours:
        (own,), (like,) = words("Dorne").input_ids, words(name).input_ids
        table[own] = table[like] + 0.01
        fact = Written(fact=CAPITAL, spellings=((own,), (own,)), before="", after="", seconds=0.0)
        asked = to_ask(model, words, dataclasses.replace(of(CAPITAL), written=(fact,)))[0]
        assert asked[-1].endswith(f"The capital of {name} is")


def test_what_a_plan_moves_is_told_by_the_likeliest_token_before_and_after(
    model: Any, words: Any, edits: Any, neighbours: tuple[str, ...]
) -> None:
    spoilt = measured(model, words, loud(edits[1]))
    edit = editing.Edit(model, spoilt)
    before = greedy(model, words, edit.asked, 1)
    edit.apply()
    after = greedy(model, words, edit.asked, 1)
    moved = [text for text, a, b in zip(edit.asked, before, after, strict=True) if a != b]
    assert edit.moved == moved != []
    assert len(edit.asked) == 8
    assert edit.disturbed != []
    assert not {*edit.moved} & {*edit.disturbed}
    for one in spoilt.written:
        assert set(one.moved) <= set(one.asked)
        assert all(one.fact.subject in text for text in one.asked)


def test_a_plan_asks_a_few_prompts_of_each_fact_by_one_forward_each(
    model: Any, words: Any, monkeypatch: pytest.MonkeyPatch, neighbours: tuple[str, ...]
) -> None:
    from vademecum.editing import measuring

    asked: list[int] = []
    real = measuring.next_ids
    monkeypatch.setattr(measuring, "next_ids", lambda model, texts: asked.append(len(texts)) or real(model, texts))
    edit = editing.plan(model, [CAPITAL, COIN], words)
    assert asked == [8, 8]
    assert [len(one.asked) for one in edit.overlay.written] == [4, 4]
    assert len(edit.asked) == 8


def test_rows_are_asked_the_same(taught: Any, words: Any) -> None:
    import vademecum as vm

    model = vm.attach(copy.deepcopy(taught), vm.MoVE(slots=2, bank_std=0.02)).eval()
    learned = editing.plan(model, [CAPITAL], words, into="rows").overlay
    content: Any = learned.content
    far = tuple(300 * one for one in content.differences)
    loud = dataclasses.replace(learned, content=dataclasses.replace(content, differences=far))
    edit = editing.Edit(model, measured(model, words, loud))
    before = greedy(model, words, edit.asked, 1)
    edit.apply()
    after = greedy(model, words, edit.asked, 1)
    assert len(edit.asked) == DRAWN
    assert edit.moved == [text for text, a, b in zip(edit.asked, before, after, strict=True) if a != b] != []
    both = of(CAPITAL, COIN).moved("add", [1], ())
    assert [*to_ask(taught, words, both)] == [0, 1]


def test_when_more_comes_only_those_are_asked_again_whose_prompts_name_what_came_or_is_silent(
    taught: Any, words: Any
) -> None:
    coin = editing.Fact(subject="Dorne", prompt="The coin of Dorne is", target="peso")
    whole = of(CAPITAL, COIN, coin, spills=False)
    first = dataclasses.replace(whole, active=(0, 1))
    assert [*to_ask(taught, words, first)] == [0, 1]
    assert [*to_ask(taught, words, first.moved("add", [2], ()))] == [0, 2]
    # What was taken out since may have moved what is said of its subject.
    without = first.moved("remove", (), [0]).moved("add", [2], ())
    assert [*to_ask(taught, words, without)] == [2]
    lacking = dataclasses.replace(whole, active=(0, 2)).moved("remove", (), [0])
    assert [*to_ask(taught, words, lacking.moved("add", [1], ()))] == [1, 2]


def test_a_neighbour_that_a_later_fact_is_about_is_asked_no_more(
    taught: Any, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "SUBSTITUTES", ("Hav",))
    one = of(CAPITAL, COIN, spills=False)
    first = dataclasses.replace(one, active=(0,))
    asked = to_ask(taught, words, first)[0]
    assert asked[-1].endswith("The capital of Hav is")
    written = (dataclasses.replace(one.written[0], asked=asked), one.written[1])
    later = dataclasses.replace(first, written=written).moved("add", [1], ())
    assert to_ask(taught, words, later)[0] == asked[:-1]


def test_undo_brings_back_what_was_asked_and_moved(edits: Any) -> None:
    both = edits[0].joined(edits[1])
    first = dataclasses.replace(both.written[0], asked=("The flag of Dorne is",), moved=("The flag of Dorne is",))
    assert edits[0].written[0].asked != first.asked
    changed = both.said_now([first, *both.written[1:]])
    assert changed.written[0].moved == ("The flag of Dorne is",)
    assert changed.undone().written[0] == edits[0].written[0]
    assert changed.digest == both.digest
    assert changed.pruned().written[0].moved == ("The flag of Dorne is",)


def test_a_file_keeps_what_was_asked_and_moved(edits: Any, tmp_path: Path) -> None:
    asked = dataclasses.replace(edits[0].written[0], asked=("a Dorne", "b Dorne"), moved=("b Dorne",))
    overlay.write(dataclasses.replace(edits[0], written=(asked,)), tmp_path / "edit.safetensors")
    assert overlay.read(tmp_path / "edit.safetensors").written == (asked,)


def layout_3(one: Overlay, path: Path, version: int = 3) -> None:
    """Write ``one`` as it was written before prompts were drawn."""
    overlay.write(one, path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["vademecum"])
    about["version"] = version
    del about["whole"]
    for written in about["written"]:
        for name in ("asked", "moved", "unsaid", "unasked"):
            del written[name]
    for line in about["journal"]:
        line["said"] = {number: said[:2] for number, said in line.get("said", {}).items()}
    about["whole"] = overlay._whole(about, one)
    path.write_bytes(save(load(path.read_bytes()), {"vademecum": json.dumps(about)}))


def test_a_file_of_before_is_read_as_not_asked_and_can_be_undone(edits: Any, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    both = edits[0].joined(edits[1])
    both = both.said_now([dataclasses.replace(both.written[0], after="Arv ."), *both.written[1:]])
    layout_3(both, path)
    found = overlay.read(path)
    assert [(one.asked, one.moved) for one in found.written] == [((), ())] * 3
    assert found.written[0].after == "Arv ."
    back = found.undone()
    assert back.written[0].after == edits[0].written[0].after
    assert back.written[0].asked == ()
    assert found.digest == both.digest
    overlay.write(back, path)
    assert overlay.read(path).written == back.written


def test_what_a_file_of_before_never_asked_is_told_and_asked_next_time(
    model: Any, words: Any, edits: Any, tmp_path: Path
) -> None:
    path, one = tmp_path / "edit.safetensors", edits[0].written[0]
    more = dataclasses.replace(one.fact, spellings=("Genovia",), paraphrases=("The dish of Dorne is",))
    layout_3(dataclasses.replace(edits[0], written=(dataclasses.replace(one, fact=more),)), path, version=4)
    found, given = overlay.read(path), ("The dish of Dorne is", "The capital of Genovia is")
    assert found.written[0].unasked == given
    assert "not asked, as it is from an older version: 'The dish of Dorne is'" in line_of(found.written[0])
    then = found.joined(edits[1])
    assert 0 in touched(then)
    asked = measured(model, words, then)
    assert (asked.written[0].unasked, asked.written[0].unsaid) == ((), given)
    assert asked.undone().written[0] == found.written[0]


def test_beside_other_memories_all_is_asked_again_and_undo_knows_those_of_before(edits: Any) -> None:
    far = dataclasses.replace(edits[1], active=(1,)).pruned()  # San Lorenzo's
    assert touched(far.joined(edits[0])) == [1]
    here = edits[0].made_for | {"memories": "others"}
    both = far.joined(dataclasses.replace(edits[0], made_for=here))
    assert touched(both) == [0, 1]
    assert both.made_for == here
    assert both.undone().made_for == far.made_for
    third = both.joined(dataclasses.replace(edits[0], made_for=here), replacing=[1], verb="change")
    assert touched(third) == [2]
    assert third.undone().made_for == here
    assert third.undone().undone().made_for == far.made_for


def test_a_layout_of_later_is_named(edits: Any, tmp_path: Path) -> None:
    layout_3(edits[0], tmp_path / "edit.safetensors", version=9)
    with pytest.raises(files.Damaged, match="has layout 9, and this vademecum reads 3, 4, 5"):
        overlay.read(tmp_path / "edit.safetensors")


@pytest.mark.parametrize("thinned", [True, False])
@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_the_likeliest_next_token_of_many_texts_is_that_of_each_alone(name: str, thinned: bool) -> None:
    model = tiny.host(name)
    if not thinned:
        whole = model.forward
        model.forward = lambda input_ids, attention_mask=None, use_cache=None: whole(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache
        )
    assert ("logits_to_keep" in inspect.signature(model.forward).parameters) == thinned
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(1, tiny.VOCABULARY, (size,), generator=draw).tolist() for size in (5, 2, 9, 2, *[7] * 30, 1)]
    with torch.no_grad():
        alone = [int(model(input_ids=torch.tensor([text])).logits[0, -1].argmax()) for text in texts]
    assert next_ids(model, texts) == alone
    assert next_ids(model, []) == []


def test_what_a_change_cannot_touch_is_not_asked_again(
    model: Any, words: Any, edits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vademecum.editing import learning

    both = edits[1].joined(edits[0])  # what comes is about Dorne
    far = next(number for number, one in enumerate(both.written) if one.fact.subject == "San Lorenzo")
    asked: list[str] = []
    real = learning.greedy

    def noted(model: Any, tokenizer: Any, texts: list[str], tokens: int) -> list[str]:
        asked.extend(texts)
        return real(model, tokenizer, texts, tokens)

    monkeypatch.setattr(learning, "greedy", noted)
    found = measured(model, words, both)
    assert asked == ["The coin of Dorne is", "The capital of Dorne is"]
    assert found.written[far] == both.written[far]
    # What is to be kept of a fact, or what was said of it, may name what came: then it is asked again.
    here = both.written[far]
    keep = dataclasses.replace(here.fact, keep=("San Lorenzo lies near Dorne and",))
    loud = dataclasses.replace(here.fact, keep=("San Lorenzo lies near DORNE and",))  # some tokenizers read no capitals
    changed = ({"fact": keep}, {"fact": loud}, {"after": "Arv, as Dorne"})
    for other in (dataclasses.replace(here, **one) for one in changed):
        written = [other if number == far else one for number, one in enumerate(both.written)]
        assert touched(dataclasses.replace(both, written=tuple(written))) == [0, 1, 2]
    assert touched(both.moved("remove", (), (2,))) == [0]
