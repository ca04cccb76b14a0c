"""An overlay is one file with a journal: whole or refused, changed and taken back byte for byte."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from tests.editing import world
from vademecum import editing, files
from vademecum.editing import overlay


def test_a_file_gives_back_what_was_written(model: Any, words: Any, edits: Any, tmp_path: Path) -> None:
    path = editing.Edit(model, edits[1]).save(tmp_path / "edit.safetensors")
    found = overlay.read(path)
    assert found.written == edits[1].written
    assert found.digest == edits[1].digest == found.journal[-1]["after"]
    assert found.journal == edits[1].journal
    assert torch.equal(found.content.rows, edits[1].content.rows)
    edit = editing.open_edit(path, model, words).apply()
    assert edit.failed == []
    assert [one.name for one in tmp_path.iterdir()] == ["edit.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "byte", "foreign", "nested", "empty"])
def test_a_damaged_file_is_named(edits: Any, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "edit.safetensors"
    overlay.write(edits[0], path)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[:-40]
    elif damage == "byte":
        data[-5] ^= 1
    elif damage == "foreign":
        from safetensors.torch import save

        data = bytearray(save({"rows": torch.zeros(2)}))
    elif damage == "nested":
        from safetensors.torch import save

        data = bytearray(save({"rows": torch.zeros(2)}, {"vademecum": "[" * 100_000}))
    else:
        data = bytearray()
    path.write_bytes(data)
    with pytest.raises(files.Damaged, match=r"edit\.safetensors"):
        overlay.read(path)


def test_damage_to_what_is_silent_is_found_too(edits: Any, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    gone = edits[1].moved("remove", (), edits[1].find("Dorne"))
    overlay.write(gone, path)
    rows = gone.content.rows.clone()
    rows[0] += 1
    data, old, new = path.read_bytes(), gone.content.rows.numpy().tobytes(), rows.numpy().tobytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    with pytest.raises(files.Damaged, match="its own digest"):
        overlay.read(path)


def test_another_host_or_tokenizer_is_refused(model: Any, words: Any, edits: Any, tmp_path: Path) -> None:
    path = editing.Edit(model, edits[0]).save(tmp_path / "edit.safetensors")
    other = copy.deepcopy(model)
    other.model.layers[0].mlp.up_proj.weight.data.mul_(1.1)
    for one in (other, copy.deepcopy(model).half()):
        with pytest.raises(ValueError, match=r"other weights of the same shape \(float16 rounds"):
            editing.open_edit(path, one, words)
    small = tf.LlamaForCausalLM(tf.LlamaConfig(**{**model.config.to_dict(), "num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"layers 4 \(here 2\)"):
        editing.open_edit(path, small, words)
    strange = world.tokenizer()
    strange.add_tokens(["Zembla"])
    with pytest.raises(ValueError, match="another tokenizer"):
        editing.open_edit(path, model, strange)
    with pytest.raises(FileNotFoundError, match="is no file"):
        editing.open_edit(tmp_path / "none", model, words)
    assert editing.open_edit(path, model.bfloat16(), words) is not None


def test_a_change_replaces_and_undo_brings_back_the_very_bytes(edits: Any) -> None:
    first, second = edits
    both = first.joined(second)
    assert [fact.target for fact in both.facts] == ["Hol", "peso", "Arv"]
    with pytest.raises(ValueError, match="is written already"):
        both.joined(first)
    changed = both.joined(first, replacing=both.find("dorne", "The capital of Dorne is"), verb="change")
    assert [fact.target for fact in changed.facts] == ["peso", "Arv", "Hol"]
    gone = both.moved("remove", (), both.find("San Lorenzo"))
    assert [fact.target for fact in gone.facts] == ["Hol", "peso"]
    back = gone.undone()
    assert back.digest == both.digest == gone.journal[-1]["before"]
    assert back.undone().digest == first.digest
    assert back.undone().undone().facts == []
    with pytest.raises(ValueError, match=r"no entry with subject 'Zembla'; written are 'The capital of Dorne is'"):
        both.find("Zembla")


def test_pruned_it_says_the_same_with_no_way_back(model: Any, words: Any, edits: Any) -> None:
    gone = edits[0].joined(edits[1])
    gone = gone.moved("remove", (), gone.find("Dorne"))
    small = gone.pruned()
    assert small.digest == gone.digest
    assert (small.content.facts, len(small.content.gate_weights)) == (1, 1)
    with pytest.raises(ValueError, match="nothing is left to undo"):
        small.undone()
    assert editing.Edit(model, small).apply().failed == []


@given(moves=st.lists(st.sampled_from(["add", "remove", "undo"]), max_size=8), data=st.data())
@settings(deadline=None)
def test_every_undo_takes_back_the_last_change_that_stands(edits: Any, moves: list[str], data: st.DataObject) -> None:
    now = edits[0].joined(edits[1]).pruned()
    past: list[str] = []
    for move in moves:
        silent = [number for number in range(3) if number not in now.active]
        if move == "undo" and past:
            now = now.undone()
            assert now.digest == past.pop()
        elif move == "add" and silent:
            past.append(now.digest)
            now = now.moved("add", [data.draw(st.sampled_from(silent))], ())
        elif move == "remove" and now.active:
            past.append(now.digest)
            now = now.moved("remove", (), [data.draw(st.sampled_from(now.active))])
    assert now.journal == () or now.journal[-1]["after"] == now.digest


@pytest.mark.parametrize(
    "forged",
    [
        *[{"active": [0, 7]}, {"active": ["0"]}, {"active": [-1]}, {"active": [0, 0]}],
        *[{"journal": [{}]}, {"journal": [{"came": [0], "went": []}]}, {"made_for": {}}],
    ],
)
def test_what_no_overlay_says_is_damage_also_where_the_digest_agrees(
    edits: Any, tmp_path: Path, forged: dict[str, Any]
) -> None:
    path = tmp_path / "edit.safetensors"
    overlay.write(edits[0], path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["vademecum"]) | forged
    del about["whole"]
    about["whole"] = overlay._whole(about, edits[0])
    path.write_bytes(save(load(path.read_bytes()), {"vademecum": json.dumps(about)}))
    with pytest.raises(files.Damaged, match="restore it from a good copy"):
        overlay.read(path)


def test_a_folder_is_no_place_to_save_to(edits: Any, model: Any, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="give a file in it"):
        editing.Edit(model, edits[0]).save(tmp_path)
    assert not list(tmp_path.iterdir())
