"""Saved memories: whole or not at all, and only onto the host they were made for."""

from __future__ import annotations

import json

import pytest
import torch

import vademecum as vm
from tests import tiny
from vademecum import files
from vademecum.state import load_memory_state_dict, memory_state_dict


@pytest.fixture
def saved(tmp_path):
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2), vm.MoE(experts=2, balance="bias"))
    tiny.shake(model)
    vm.save(model, tmp_path / "memory")
    return model, tmp_path / "memory"


def test_a_folder_holds_a_description_tensors_and_a_manifest(saved) -> None:
    _, folder = saved
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "memory.json", "memory.safetensors"]
    about = json.loads((folder / "memory.json").read_text())
    assert [kind["kind"] for kind in about["kinds"]] == ["move", "moe"]


def test_loading_fills_a_memory_of_the_same_kinds(saved) -> None:
    model, folder = saved
    other = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2), vm.MoE(experts=2, balance="bias"))
    vm.load(other, folder)
    assert torch.equal(model(input_ids=tiny.ids()).logits, other(input_ids=tiny.ids()).logits)


def test_loading_over_other_kinds_is_refused(saved) -> None:
    _, folder = saved
    with pytest.raises(ValueError, match=r"other settings than are attached.*vm.detach"):
        vm.load(vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3)), folder)


def test_loading_onto_another_host_is_refused_and_leaves_it_bare(saved) -> None:
    _, folder = saved
    model = tiny.host("llama")
    with pytest.raises(ValueError, match=r"made for another host: family 'qwen3' \(this host: 'llama'\)"):
        vm.load(model, folder)
    assert not hasattr(model, "vademecum")


def test_a_missing_folder_and_a_foreign_one_are_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"give load a folder that vm\.save wrote"):
        vm.load(tiny.host("qwen3"), tmp_path / "nothing")
    (tmp_path / "foreign").mkdir()
    with pytest.raises(ValueError):
        vm.load(tiny.host("qwen3"), tmp_path / "foreign")


def test_a_flipped_byte_is_found_and_the_host_stays_bare(saved) -> None:
    _, folder = saved
    path = folder / "memory.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    model = tiny.host("qwen3")
    with pytest.raises(files.Damaged, match=r"memory\.safetensors"):
        vm.load(model, folder)
    assert not hasattr(model, "vademecum")


def test_saving_over_an_older_save_replaces_it(saved) -> None:
    model, folder = saved
    tiny.shake(model, seed=7)
    vm.save(model, folder)
    other = vm.load(tiny.host("qwen3"), folder)
    assert torch.equal(model(input_ids=tiny.ids()).logits, other(input_ids=tiny.ids()).logits)


def test_missing_unexpected_and_misshaped_tensors_are_named_and_nothing_is_copied(saved) -> None:
    model, _ = saved
    before = {name: tensor.clone() for name, tensor in memory_state_dict(model).items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    del state["move.shared.weight"]
    state["move.layers.0.gate.weight"] = torch.zeros(1)
    state["other"] = torch.zeros(1)
    with pytest.raises(
        ValueError, match=r"missing: move.shared.weight; unexpected: other; of another shape: move.layers.0"
    ):
        load_memory_state_dict(model, state)
    assert all(torch.equal(before[name], tensor) for name, tensor in memory_state_dict(model).items())


def test_saving_a_bare_model_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="has no memory"):
        vm.save(tiny.host("qwen3"), tmp_path / "x")
    assert not (tmp_path / "x").exists()
