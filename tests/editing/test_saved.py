"""A memory's folder holds the memory, an edit's file the edit: neither has the other in it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import vademecum as vm
from vademecum import editing
from vademecum.editing.edit import overlays
from vademecum.editing.reading import greedy
from vademecum.state import memory_state_dict

TEXT = "The capital of Dorne is"


def logits(model: Any, words: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=words(TEXT, return_tensors="pt").input_ids).logits


def test_a_saved_memory_leaves_entries_to_the_edits_own_file(
    taught: Any, words: Any, edits: Any, tmp_path: Path
) -> None:
    own = vm.Entries(headwords=(((2,),),), label="zzz")
    model = vm.attach(copy.deepcopy(taught), own, vm.MoVE(slots=2, bank_std=0.02))
    names, before = memory_state_dict(model).keys(), logits(model, words)
    edit = editing.Edit(model, edits[0]).apply()
    edited = logits(model, words)
    assert memory_state_dict(model).keys() == names
    vm.save(model, tmp_path / "memory")
    edit.save(tmp_path / "edit.safetensors")
    found = vm.load(copy.deepcopy(taught), tmp_path / "memory")
    assert overlays(found) == []
    assert torch.equal(logits(found, words), before)
    again = editing.open_edit(tmp_path / "edit.safetensors", found, words).apply()
    assert torch.equal(logits(found, words), edited)
    # The memory below is filled, the edit stays.
    vm.load(found, tmp_path / "memory")
    assert again.applied
    assert torch.equal(logits(found, words), edited)
    assert torch.equal(logits(again.undo().model, words), before)


def test_where_there_is_nothing_but_edits_nothing_is_saved_or_filled(
    model: Any, words: Any, edits: Any, tmp_path: Path
) -> None:
    vm.save(vm.attach(copy.deepcopy(model), vm.Entries()), tmp_path / "entries")
    editing.Edit(model, edits[0]).apply()
    with pytest.raises(ValueError, match=r"no memory of its own, only what edits put on it.*edit\.save"):
        vm.save(model, tmp_path / "memory")
    assert not (tmp_path / "memory").exists()
    with pytest.raises(ValueError, match=r"no memory of its own to fill.*undo the edits"):
        vm.load(model, tmp_path / "entries")


def test_rows_are_saved_with_the_edit_in_them_and_not_edited_twice(taught: Any, words: Any, tmp_path: Path) -> None:
    model = vm.attach(copy.deepcopy(taught), vm.MoVE(slots=2, bank_std=0.02)).eval()
    edit = editing.plan(model, [editing.Fact(subject="Dorne", prompt=TEXT, target="Hol")], words, into="rows").apply()
    vm.save(model, tmp_path / "memory")
    found = vm.load(copy.deepcopy(taught), tmp_path / "memory")
    assert greedy(found, words, [TEXT], 1)[0].strip() == "Hol"
    with pytest.raises(ValueError, match="is not the one that the overlay was made for"):
        editing.Edit(found, edit.overlay).apply()


def test_entries_are_loaded_over_the_same_entries(taught: Any, words: Any, tmp_path: Path) -> None:
    kind = vm.Entries(headwords=(((2,), (3, 4)),))
    model = vm.attach(copy.deepcopy(taught), kind)
    vm.save(model, tmp_path / "memory")
    assert vm.load(vm.attach(copy.deepcopy(taught), kind), tmp_path / "memory") is not None
    assert vm.kinds.from_dict(kind.to_dict()) == kind


def test_entries_that_a_memory_of_before_has_are_not_put_beside_themselves(taught: Any, words: Any, edits: Any) -> None:
    model = vm.attach(copy.deepcopy(taught), edits[0].content.kind(edits[0]))
    with pytest.raises(ValueError, match="entries of this edit are on the model already"):
        editing.Edit(model, edits[0]).apply()
