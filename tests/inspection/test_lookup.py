"""What a text looks up: the gates are those of the model, and the page says what they change."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from tests.editing import world

import vademecum as vm
from vademecum import cli, editing
from vademecum.inspection import lookup
from vademecum.inspection.commands import inspect_lookup
from vademecum.inspection.lookup_page import make
from vademecum.inspection.words import Words
from vademecum.memory.rewrites import Rewrites


def test_gates_of_slots_and_entries_by_layer_and_token() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3), vm.Entries(headwords=(((7, 8),), ((9,),)), reach="after"))
    tiny.shake(model)
    found = lookup.look(model, [1, 9, 3, 4], {"entries": ["first", "second"]})
    assert {one.key: (one.part, one.labels, one.strength.shape) for one in found.opened} == {
        "move": ("slot", ("slot 0", "slot 1", "slot 2"), (2, 4, 3)),
        "entries": ("entry", ("second",), (2, 4, 1)),
    }
    (entries,) = (one for one in found.opened if one.key == "entries")
    assert not entries.strength[:, 0].any()
    assert (entries.strength[:, 1:] > 0).all()
    with torch.no_grad():
        now = model(input_ids=torch.tensor([[1, 9, 3, 4]])).logits[0].log_softmax(-1)
        with vm.knocked_out(model):
            then = model(input_ids=torch.tensor([[1, 9, 3, 4]])).logits[0].log_softmax(-1)
    torch.testing.assert_close(found.with_memory, now)
    torch.testing.assert_close(found.without, then)
    moved = (then.exp() * (then - now)).sum(-1) / torch.tensor(2.0).log()
    torch.testing.assert_close(found.moved(), moved)
    top = found.likeliest(3, 2)
    assert top[0][0] == int(torch.stack([then[3], now[3]]).amax(0).argmax())


def test_gates_are_drawn_on_the_scale_of_all_conditions_together() -> None:
    words = Words(world.tokenizer().backend_tokenizer)
    kind = vm.Entries(headwords=(((9,),),), reach="after", conditions=2)
    model = vm.attach(tiny.host("qwen3"), kind, vm.MoVE(slots=2))
    for name, one in model.named_parameters():
        if name.endswith("entries.gate.bias"):
            one.data[0, 0] = 50.0  # one condition holds for sure, the other is left at 1
    found = lookup.look(model, [1, 9, 3])
    assert {one.key: one.most for one in found.opened} == {"entries": 4.0, "move": 2.0}
    made = make(found, words, model="m")
    entries, move = made.sections["entries"][1], made.sections["move"][1]
    assert "at most 4 (2 for each of 2 conditions)" in entries
    assert "--a:0.56" in entries
    assert "a mean over layers, of at most 2." in move
    scales = {one.name: one.figure.axes[0].images[0].get_clim() for one in made.drawings}
    assert scales == {"gates-entries": (0.0, 4.0), "gates-move": (0.0, 2.0)}


def test_every_entry_that_speaks_has_its_gates_by_layer_drawn_and_what_is_left_out_is_counted() -> None:
    words = Words(world.tokenizer().backend_tokenizer)
    model = vm.attach(tiny.host("qwen3"), vm.Entries(headwords=tuple(((n,),) for n in range(2, 13)), reach="after"))
    tiny.shake(model)
    few = lookup.look(model, [1, 9, 3, 4], {"entries": [f"fact {n}" for n in range(2, 13)]})
    (drawing,) = make(few, words, model="m").drawings
    panels = {axis.get_title(loc="left"): axis.images[0].get_array() for axis in drawing.figure.axes if axis.images}
    titles = ["entry 0: fact 3", "entry 1: fact 4", "entry 2: fact 9"]
    widest = few.opened[0].strength.amax((0, 1)).argsort(descending=True)
    assert [*panels] == [titles[number] for number in widest]
    for number, title in enumerate(titles):
        drawn, gates = panels[title], few.opened[0].strength[..., number]
        assert drawn.mask.tolist() == (gates == 0).tolist()
        assert torch.equal(torch.tensor(drawn.filled(0.0)), gates.double())
    assert "left out" not in drawing.caption
    many = lookup.look(model, list(range(2, 13)))
    (drawing,) = make(many, words, model="m").drawings
    assert sum(len(axis.images) for axis in drawing.figure.axes) == 8
    assert "3 more speak with narrower gates and are left out." in drawing.caption


def test_a_text_without_a_headword_is_read_as_by_the_host() -> None:
    words = world.tokenizer()
    model = world.model(words, steps=1)
    vm.attach(model, vm.Entries(headwords=(((7, 8),),)))
    found = lookup.look(model, [1, 2, 3])
    assert found.opened == ()
    made = make(found, Words(words.backend_tokenizer), model="m")
    assert "bit for bit" in made.headline[0]


def test_a_model_without_a_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="no memory"):
        lookup.look(tiny.host("qwen3"), [1, 2])


def test_the_verb_writes_a_page_for_an_overlay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words: Any = world.tokenizer()
    model = world.model(words)
    fact = editing.Fact(subject="Dorne", prompt="The capital of Dorne is", target="Hol")
    editing.plan(copy.deepcopy(model), [fact], words).save(tmp_path / "facts.safetensors")
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    text = "The capital of Dorne is"
    given = [str(tmp_path / "model"), "--overlay", str(tmp_path / "facts.safetensors"), "--text", text]
    assert cli.main(["inspect", "lookup", *given]) == 0
    said = capsys.readouterr().out
    assert "entries: 1 of 1 opened" in said
    assert "likeliest token is Hol with the edit and Dun without" in said
    folder = tmp_path / "inspect-lookup"
    page = (folder / "report.html").read_text("utf-8")
    assert "The capital of Dorne is \u2192 Hol" in page
    assert (folder / "figures" / "gates-entries.png").is_file()
    assert (folder / "lookup.csv").read_text("utf-8").count("\n") == 6
    assert cli.main(["inspect", "lookup", *given[:-1], " "]) != 0
    capsys.readouterr()
    assert cli.main(["inspect", "lookup", *given[:-1], "caf\udce9"]) != 0
    assert "is no text" in capsys.readouterr().err


@pytest.mark.parametrize("into", ["entries", "rows"])
def test_an_edit_is_told_from_a_bank_that_the_model_has_of_its_own(into: str) -> None:
    words: Any = world.tokenizer()
    model = vm.attach(world.model(words, steps=1), vm.MoVE(slots=2, bank_std=0.5)).eval()
    tiny.shake(model)
    ids = words("The capital of Dorne is").input_ids
    with torch.no_grad():
        before = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    fact = editing.Fact(subject="Dorne", prompt="The capital of Dorne is", target="Hol")
    edit = editing.plan(model, [fact], words, into=into)
    hav = words("The capital of Hav is").input_ids
    there, elsewhere = lookup.said(model, ids), lookup.said(model, hav)
    edit.apply()
    found = lookup.look(model, ids, before=there)
    assert torch.equal(found.without, before)
    assert not torch.equal(found.with_memory, before)
    assert not torch.equal(lookup.look(model, ids).without, before)  # the bank is silent there, too
    made = make(found, Words(words.backend_tokenizer), model="m")
    assert "with the edit" in made.headline[-1]
    assert "<th>without the edit</th>" in made.sections["next"][1]
    found = lookup.look(model, hav, before=elsewhere)
    assert torch.equal(found.with_memory, found.without)
    said = " ".join(make(found, Words(words.backend_tokenizer), model="m").headline)
    assert "The edit changed nothing in this text: it is read as without it, bit for bit." in said


@pytest.mark.parametrize("into", ["entries", "rows"])
def test_entries_of_the_models_own_are_not_called_by_the_facts_of_an_overlay(tmp_path: Path, into: str) -> None:
    words: Any = world.tokenizer()
    dorne = words.convert_tokens_to_ids("Dorne")
    model = world.model(words, steps=1)
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    own = vm.Entries(headwords=(((dorne,),),), reach="after", label="own")
    vm.attach(model, own, vm.MoVE(bank_std=0.02)).eval()
    vm.save(model, tmp_path / "memory")
    fact = editing.Fact(subject="Dorne", prompt="The capital of Dorne is", target="Hol")
    editing.plan(model, [fact], words, into=into).save(tmp_path / "facts.safetensors")
    page = inspect_lookup(str(tmp_path), fact.prompt, overlay=tmp_path / "facts.safetensors", echo=lambda _: None)
    names = re.findall(r"<li>(entry [^<]*)</li>", page.read_text("utf-8"))
    assert sorted(names) == ["entry 0: The capital of Dorne is \u2192 Hol"] * (into == "entries") + ["entry 0: entry 0"]


EDITED = [
    editing.Fact(subject="Hav", prompt="The capital of Hav is", target="Bor"),
    editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark"),
    editing.Fact(subject="San Lorenzo", prompt="The capital of San Lorenzo is", target="Arv"),
]


def test_tokens_whose_rows_an_edit_rewrote_are_marked_with_what_for() -> None:
    words: Any = world.tokenizer()
    model = vm.attach(world.model(words, steps=1), vm.LaVE(bank_std=0.02), vm.MoVE(slots=2, bank_std=0.02)).eval()
    edit = editing.plan(model, EDITED, words, into="rows").apply()
    ids, show = words("The coin of Hav is").input_ids, Words(words.backend_tokenizer)
    hav, lorenzo = words.convert_tokens_to_ids(["Hav", "Lorenzo"])
    found = lookup.look(model, ids)
    assert found.rewritten.keys() == {"lave", "move"}
    for own in found.rewritten.values():
        assert own.keys() == {hav, lorenzo}
        assert sorted(own[hav]) == ["The capital of Hav is \u2192 Bor", "The coin of Hav is \u2192 mark"]
        assert own[lorenzo] == ["The capital of San Lorenzo is \u2192 Arv"]
    made = make(found, show, model="m")
    assert "Edits rewrote the rows of 2 tokens; 1 of the 5 tokens of this text read one of them (Hav)." in made.headline
    for key in ("lave", "move"):
        (marked,) = re.findall(r'<span class="t noted"[^>]*>[^<]*</span>', made.sections[key][1])
        assert marked.endswith("Hav</span>")
        assert "row rewritten for" in marked
        assert "The coin of Hav is \u2192 mark" in marked
    told = re.findall(r"<td>([^<]*)</td>", made.sections["edited"][1])
    assert sorted([told[:3], told[4:7]]) == [["Hav", "3", "lave"], ["Hav", "3", "move"]]
    elsewhere = make(lookup.look(model, words("The coin of Dorne is").input_ids), show, model="m")
    assert "0 of the 5 tokens of this text read one of them." in " ".join(elsewhere.headline)
    assert "edited" not in elsewhere.sections
    edit.undo()
    assert "noted" not in make(lookup.look(model, ids), show, model="m").sections["move"][1]


def test_rows_that_were_rewritten_for_nobody_knows_what_are_marked_where_no_gate_tells_of_them() -> None:
    words: Any = world.tokenizer()
    model = vm.attach(world.model(words, steps=1), vm.BankOfValues())
    number = words.convert_tokens_to_ids("Hav")
    for bank in vm.memories(model).banks().values():
        Rewrites.on(bank).put("mine", torch.tensor([number]), torch.ones(1, *bank.row_shape), "me")
    found = lookup.look(model, words("The coin of Hav is").input_ids)
    assert found.opened == ()
    made = make(found, Words(words.backend_tokenizer), model="m")
    assert "for facts that are not known here" in made.sections["edited"][1]
    assert "bit for bit" not in " ".join(made.headline)
