"""Facts in rows of the model's own bank: the same interface, damage shown first, every row back to the last bit."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import vademecum as vm
from vademecum import cli, editing
from vademecum.editing import commands, overlay
from vademecum.editing.reading import greedy
from vademecum.memory.rewrites import Rewrites
from vademecum.stores.ram import Ram
from vademecum.surgery import memories

FACTS = [
    editing.Fact(subject="Hav", prompt="The capital of Hav is", target="Bor"),
    editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark"),
    editing.Fact(subject="San Lorenzo", prompt="The capital of San Lorenzo is", target="Arv"),
]


@pytest.fixture(scope="module")
def remembering(taught: Any) -> Any:
    """The small world's model with a bank that has learned a little."""
    model = copy.deepcopy(taught)
    vm.attach(model, vm.MoVE(slots=2, bank_std=0.02))
    return model.eval()


def rows_of(model: Any) -> torch.Tensor:
    (bank,) = memories(model).banks().values()
    rows: torch.Tensor = bank.table().gather(torch.arange(bank.rows))
    return rows.clone()


def says(model: Any, words: Any, fact: editing.Fact) -> str:
    return greedy(model, words, [fact.prompt], 1)[0].strip()


def test_facts_are_planned_shown_applied_and_undone_to_the_bit(remembering: Any, words: Any) -> None:
    model = copy.deepcopy(remembering)
    before = rows_of(model)
    edit = editing.plan(model, FACTS, words, into="rows")
    assert torch.equal(rows_of(model), before)
    assert not any(bank.ledger for bank in memories(model).banks().values())
    assert edit.failed == []
    damage = edit.damage
    assert damage is not None
    assert set(damage.tokens) == {"Hav", "Lorenzo"}
    assert 0 < damage.near <= 1
    assert damage.near_nats > damage.common_nats > 0
    assert "'Hav'" in str(damage)
    edit.apply()
    assert [says(model, words, fact) for fact in FACTS] == ["Bor", "mark", "Arv"]
    moved = (rows_of(model) != before).flatten(1).any(1).nonzero()[:, 0].tolist()
    assert moved == sorted(words.convert_tokens_to_ids(["Hav", "Lorenzo"]))
    assert edit.applied
    edit.undo()
    assert not edit.applied
    assert torch.equal(rows_of(model), before)


def test_edits_of_the_same_row_combine_in_any_order(remembering: Any, words: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(remembering)
    before = rows_of(model)
    first, second = (editing.plan(model, [fact], words, into="rows") for fact in FACTS[:2])
    first.apply(), second.apply()
    both = rows_of(model)
    first.undo()
    second.undo()
    assert torch.equal(rows_of(model), before)
    second.apply(), first.apply()
    assert torch.equal(rows_of(model), both)
    second.undo()
    first.undo()
    assert torch.equal(rows_of(model), before)
    again = editing.open_edit(first.save(tmp_path / "rows.safetensors"), model, words)
    assert again.overlay.digest == first.overlay.digest
    assert again.damage == first.damage
    again.apply()
    assert says(model, words, FACTS[0]) == "Bor"
    assert first.applied
    with pytest.raises(ValueError, match="applied already"):
        first.apply()
    first.undo()
    assert torch.equal(rows_of(model), before)


def test_what_cannot_be_edited_says_so(remembering: Any, taught: Any, words: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no bank of rows"):
        editing.plan(copy.deepcopy(taught), FACTS, words, into="rows")
    with pytest.raises(ValueError, match="expected 'entries' or 'rows'"):
        editing.plan(copy.deepcopy(taught), FACTS, words, into="pages")
    model = copy.deepcopy(remembering)
    edit = editing.plan(model, FACTS[:1], words, into="rows")
    path = edit.save(tmp_path / "rows.safetensors")
    # The row that it was learned over has moved.
    (bank,) = memories(model).banks().values()
    hav = torch.tensor(words.convert_tokens_to_ids(["Hav"]))
    bank.table().write(hav, bank.table().gather(hav) + 1)
    before = rows_of(model)
    with pytest.raises(ValueError, match="is not the one that the overlay was made for"):
        editing.open_edit(path, model, words).apply()
    assert torch.equal(rows_of(model), before)
    trained = copy.deepcopy(model)
    vm.RowOptimizer(trained, lr=0.1)
    with pytest.raises(ValueError, match="being trained"):
        editing.plan(trained, FACTS[1:2], words, into="rows")
    editing.plan(model, FACTS[1:2], words, into="rows").apply()
    with pytest.raises(ValueError, match="edited rows"):
        vm.RowOptimizer(model, lr=0.1)


def test_every_spelling_has_its_rows(remembering: Any, words: Any) -> None:
    model = copy.deepcopy(remembering)
    for prompt in ("The capital of Dorne is", "The capital of Hav is"):
        fact = editing.Fact(subject="Dorne", spellings=("Hav",), prompt=prompt, target="Arv")
        edit = editing.plan(model, [fact], words, into="rows").apply()
        assert edit.failed == []
        assert greedy(model, words, ["The capital of Dorne is", "The capital of Hav is"], 1) == ["Arv", "Arv"]
        edit.undo()


def test_rows_in_another_number_type_are_named(remembering: Any, words: Any) -> None:
    edit = editing.plan(copy.deepcopy(remembering), FACTS[:1], words, into="rows")
    other = copy.deepcopy(remembering).bfloat16()
    with pytest.raises(ValueError, match=r"another number type \(here torch.bfloat16\)"):
        editing.Edit(other, edit.overlay).apply()


def test_rows_lie_one_over_the_other(remembering: Any) -> None:
    (bank,) = memories(copy.deepcopy(remembering)).banks().values()
    before = bank.table().gather(torch.arange(bank.rows)).clone()
    over = Rewrites.on(bank)
    draw = torch.Generator().manual_seed(0)
    for label, ids in (("b", [1, 3]), ("a", [3, 4]), ("c", [1, 3, 4])):
        over.put(label, torch.tensor(ids), torch.randn(len(ids), *bank.row_shape, generator=draw), None)
    for label in ("a", "c", "b", "b"):
        over.drop(label)
    assert torch.equal(bank.table().gather(torch.arange(bank.rows)), before)


def test_what_a_row_learned_after_an_edit_is_not_undone(remembering: Any, words: Any) -> None:
    model = copy.deepcopy(remembering)
    (bank,) = memories(model).banks().values()
    edits = [editing.plan(model, [fact], words, into="rows") for fact in FACTS[:2]]
    edits[0].apply()
    assert bank.weight is not None
    hav = words.convert_tokens_to_ids("Hav")
    bank.weight.data[hav, 0, 0] += 1
    learned = rows_of(model)
    for refused in (edits[0].undo, edits[1].apply):
        with pytest.raises(ValueError, match=rf"bank row {hav} is not what the edit laid there.*vm\.save"):
            refused()
        assert torch.equal(rows_of(model), learned)
    assert edits[0].applied
    assert not edits[1].applied


def test_no_memory_is_loaded_below_an_edit(remembering: Any, words: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(remembering)
    vm.save(model, tmp_path / "memory")
    before = rows_of(model)
    edit = editing.plan(model, FACTS[:1], words, into="rows").apply()
    edited = rows_of(model)
    with pytest.raises(ValueError, match=r"move\.shared\.weight has rows that an edit lies over.*undo the edit first"):
        vm.load(model, tmp_path / "memory")
    assert torch.equal(rows_of(model), edited)
    edit.undo()
    vm.load(model, tmp_path / "memory")
    assert torch.equal(rows_of(model), before)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("written", [True, False])
def test_an_undo_that_fails_can_be_said_again(
    remembering: Any, words: Any, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException], written: bool
) -> None:
    model = copy.deepcopy(remembering)
    before = rows_of(model)
    edit = editing.plan(model, FACTS, words, into="rows").apply()
    write = Ram.write

    def torn(self: Ram, ids: torch.Tensor, values: torch.Tensor) -> None:
        if written:
            write(self, ids[:1], values[:1])
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(Ram, "write", torn)
        with pytest.raises(fault):
            edit.undo()
    assert edit.applied
    edit.undo()
    assert not edit.applied
    assert torch.equal(rows_of(model), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rows_of_every_number_type_get_their_bits_back(remembering: Any, dtype: torch.dtype) -> None:
    (bank,) = memories(copy.deepcopy(remembering).to(dtype)).banks().values()
    assert bank.weight is not None
    bank.weight.data += torch.rand(bank.weight.shape, dtype=dtype)
    before, ids = bank.weight.detach().clone(), torch.tensor([1, 3])
    over = Rewrites.on(bank)
    over.put("a", ids, torch.randn(2, *bank.row_shape), None)
    over.drop("a")
    assert torch.equal(bank.weight, before)
    # A model that is moved to another type meanwhile is the one without the edit in that type.
    over.put("a", ids, torch.randn(2, *bank.row_shape), None)
    bank.float()
    over.put("b", ids, torch.randn(2, *bank.row_shape), None)
    over.drop("a")
    over.drop("b")
    assert torch.equal(bank.weight, before.float())


def test_the_verb_shows_the_damage_before_it_writes(
    remembering: Any, words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = tmp_path / "model", tmp_path / "rows.safetensors"
    vm.save(remembering, folder / "memory")
    from vademecum.training.export import plain_host

    plain_host(remembering).save_pretrained(folder)
    words.save_pretrained(folder)
    fact = ["--subject", "Hav", "--prompt", "The capital of Hav is", "--target", "Bor"]
    monkeypatch.setattr("typer.confirm", lambda text: False)
    assert cli.main(["edit", "add", str(folder), str(file), *fact, "--into", "rows"]) != 0
    assert "of next words become others" in capsys.readouterr().out
    assert not file.exists()
    assert cli.main(["edit", "add", str(folder), str(file), *fact, "--into", "rows", "--yes"]) == 0
    assert "holds    The capital of Hav" in capsys.readouterr().out
    coin = ["--subject", "Hav", "--prompt", "The coin of Hav is", "--target", "mark"]
    assert cli.main(["edit", "add", str(folder), str(file), *coin, "--into", "entries"]) != 0
    assert "overlay of rows" in capsys.readouterr().err
    assert cli.main(["edit", "ask", str(folder), str(file), "--prompt", "The capital of Hav is", "--tokens", "1"]) == 0
    assert "with     'Bor'" in capsys.readouterr().out
    # What was written before and fails with the new rows is shown before anything is written, too.
    real, before = commands.measured, file.read_bytes()

    def spoilt(model: Any, tokenizer: Any, whole: overlay.Overlay) -> overlay.Overlay:
        found = real(model, tokenizer, whole)
        return found.said_now([dataclasses.replace(found.written[0], after="Arv ."), *found.written[1:]])

    with monkeypatch.context() as here:
        here.setattr(commands, "measured", spoilt)
        assert cli.main(["edit", "add", str(folder), str(file), *coin]) != 0
    assert "FAILS    The capital of Hav" in capsys.readouterr().out
    assert file.read_bytes() == before
    assert cli.main(["edit", "add", str(folder), str(file), *coin, "--yes"]) == 0
    assert "holds    The coin of Hav" in capsys.readouterr().out


def test_a_run_without_a_memory_is_opened_bare(taught: Any, words: Any, tmp_path: Path) -> None:
    from vademecum.editing.commands import opened

    model = copy.deepcopy(taught)
    final = tmp_path / "run" / "final"
    model.save_pretrained(final)
    words.save_pretrained(final)
    vm.save(vm.attach(model, vm.NoMemory()), final / "memory")
    found, _ = opened(str(tmp_path / "run"))
    assert sum(one.numel() for one in found.parameters()) == sum(one.numel() for one in taught.parameters())
    opened(str(final))


def test_every_layer_of_a_table_per_layer_is_edited_and_given_back(taught: Any, words: Any) -> None:
    model = copy.deepcopy(taught)
    vm.attach(model, vm.LaVE())
    model.eval()
    banks = memories(model).banks()
    before = {name: bank.table().gather(torch.arange(bank.rows)).clone() for name, bank in banks.items()}
    edit = editing.plan(model, FACTS[:1], words, into="rows").apply()
    assert says(model, words, FACTS[0]) == "Bor"
    assert len(banks) == 4
    assert not any(torch.equal(bank.table().gather(torch.arange(bank.rows)), before[n]) for n, bank in banks.items())
    edit.undo()
    assert all(torch.equal(bank.table().gather(torch.arange(bank.rows)), before[n]) for n, bank in banks.items())
