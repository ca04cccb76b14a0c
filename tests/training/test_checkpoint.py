import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import Corpus, build, recipe

import vademecum as vm
from vademecum import files
from vademecum.stores import tables
from vademecum.training import CheckpointDamaged, OtherArchitecture, Run, checkpoint

MOVE = vm.MoVE(slots=2)


def _open(folder, *kinds, fall_back=False, size=2, **changes):
    def model():
        return build(*(kinds or (MOVE,)), size=size)

    return Run.open(folder, build=model, corpus=Corpus(), recipe=recipe(**changes), fall_back=fall_back)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    _open(folder).advance(8)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def _drop_a_tensor_and_seal_again(path):
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    inside = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.name != files.MANIFEST}
    save_file(tensors, path)
    inside[path.name] = path.read_bytes()
    shutil.rmtree(path.parent)
    files.write_folder(path.parent, lambda folder: [(folder / name).write_bytes(data) for name, data in inside.items()])


DAMAGE = {
    "other bytes": _flip,
    "bytes": _truncate,
    "is missing": lambda path: path.unlink(),
    "lists": _drop_a_tensor_and_seal_again,
}
PARTS = ["host", "memory", "optimizer"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("says", DAMAGE)
def test_damage_is_named_and_the_last_good_checkpoint_offered(run, part, says):
    bad = checkpoint.folder_of(run, 8)
    DAMAGE[says](bad / f"{part}.safetensors")
    with pytest.raises(CheckpointDamaged, match=says) as caught:
        _open(run)
    assert caught.value.checkpoint == bad
    assert caught.value.last_good == checkpoint.folder_of(run, 4)
    assert f"{part}.safetensors" in str(caught.value)
    assert "step-00000004" in str(caught.value)
    assert "fall_back=True" in str(caught.value)


def test_damage_changes_nothing_on_the_disk_until_falling_back_is_asked_for(run):
    _flip(checkpoint.folder_of(run, 8) / "memory.safetensors")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointDamaged):
        _open(run)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_falling_back_ends_where_an_undamaged_run_ends(run, tmp_path):
    _flip(checkpoint.folder_of(run, 8) / "host.safetensors")
    again = _open(run, fall_back=True)
    assert again.step == 4
    again.advance()
    whole = _open(tmp_path / "whole")
    whole.advance()
    for (name, a), b in zip(again.model.state_dict().items(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert checkpoint.steps(run) == [8, 12]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 8}'])
def test_a_spoiled_state_file_is_damage(run, content):
    folder = checkpoint.folder_of(run, 8)
    inside = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != files.MANIFEST}
    inside[checkpoint.STATE] = content.encode()
    shutil.rmtree(folder)
    files.write_folder(folder, lambda aside: [(aside / name).write_bytes(data) for name, data in inside.items()])
    with pytest.raises(CheckpointDamaged, match=r"state\.json"):
        _open(run)


def test_without_any_good_checkpoint_the_error_says_so(run):
    for step in (4, 8):
        _flip(checkpoint.folder_of(run, step) / "host.safetensors")
    with pytest.raises(CheckpointDamaged, match="no other good checkpoint") as caught:
        _open(run, fall_back=True)
    assert caught.value.last_good is None


def test_a_pointer_to_a_folder_that_is_gone_is_damage(run):
    shutil.rmtree(checkpoint.folder_of(run, 8))
    with pytest.raises(CheckpointDamaged, match="step-00000008"):
        _open(run)
    assert _open(run, fall_back=True).step == 4


def test_a_spoiled_pointer_is_damage(run):
    (run / "checkpoints" / "latest").write_bytes(b"\xff\n\n")
    with pytest.raises(CheckpointDamaged, match="latest") as caught:
        _open(run)
    assert caught.value.last_good == checkpoint.folder_of(run, 8)


@pytest.mark.parametrize("there", [[8], [4, 8]], ids=["one kept", "two kept"])
def test_a_spoiled_pointer_is_mended_from_the_newest_good_checkpoint_and_none_is_put_aside(run, there):
    for step in {4, 8} - set(there):
        shutil.rmtree(checkpoint.folder_of(run, step))
    (run / "checkpoints" / "latest").write_bytes(b"\xff\n\n")
    assert _open(run, fall_back=True).step == 8
    assert checkpoint.steps(run) == there
    assert files.read_pointer(run / "checkpoints" / "latest") == "step-00000008"


def test_checkpoints_of_more_digits_count_as_later_when_falling_back(tmp_path):
    tensors = {"memory": {"a": torch.ones(2)}}
    for step in (99_999_999, 100_000_000):
        checkpoint.save(tmp_path, step, tensors, {}, keep=2)
    _flip(checkpoint.folder_of(tmp_path, 100_000_000) / "memory.safetensors")
    found = checkpoint.load(tmp_path, fall_back=True)
    assert found.folder == checkpoint.folder_of(tmp_path, 99_999_999)
    assert checkpoint.steps(tmp_path) == [99_999_999]


@pytest.mark.parametrize(
    "opened",
    [{"kinds": (vm.MoVE(slots=4),)}, {"kinds": (vm.LaVE(),)}, {"kinds": (vm.NoMemory(),)}, {"size": 3}],
    ids=["other slots", "other kind", "no memory", "other size"],
)
def test_a_run_of_another_architecture_is_refused(run, opened):
    with pytest.raises(OtherArchitecture, match=r"run\.json"):
        _open(run, *opened.get("kinds", ()), size=opened.get("size", 2))


def test_a_checkpoint_of_another_architecture_is_refused(run, tmp_path):
    other = tmp_path / "other"
    _open(other, vm.MoVE(slots=4)).advance(4)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")
    with pytest.raises(OtherArchitecture, match=r"belongs to another.*move\."):
        _open(run)


def test_a_run_with_another_recipe_is_refused_by_the_setting_that_differs(run):
    with pytest.raises(ValueError, match=r"recipe\.lr = 0\.006"):
        _open(run, lr=1e-3)


def test_bookkeeping_may_change_between_openings(run):
    assert _open(run, keep=5, checkpoint_every=3, eval_every=0).step == 8


def test_a_run_over_other_data_is_refused(run):
    with pytest.raises(ValueError, match=r"data\.name"):
        Run.open(run, build=lambda: build(MOVE), corpus=Corpus(name="other"), recipe=recipe())


def test_a_folder_with_other_things_in_it_is_not_made_a_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        _open(tmp_path)


@pytest.mark.parametrize("keep", [1, 2])
def test_only_the_newest_checkpoints_are_kept(tmp_path, keep):
    _open(tmp_path / "run", keep=keep, checkpoint_every=2).advance()
    assert checkpoint.steps(tmp_path / "run") == [10, 12][-keep:]


def test_a_full_disk_leaves_the_checkpoints_as_they_were(run, monkeypatch):
    again = _open(run)
    before = {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}

    def full(path, tensors):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tables, "write", full)
    with pytest.raises(OSError, match="No space") as caught:
        again.advance()
    assert caught.value.errno == errno.ENOSPC
    assert before == {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}


def test_a_frozen_host_is_not_saved_and_its_fingerprint_is_kept(tmp_path):
    def frozen():
        return build(MOVE, freeze=True)

    run = Run.open(tmp_path / "run", build=frozen, corpus=Corpus(), recipe=recipe())
    run.advance()
    names = {path.name for path in checkpoint.folder_of(tmp_path / "run", 12).iterdir()}
    assert names == {"memory.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}
    optimizer = load_file(checkpoint.folder_of(tmp_path / "run", 12) / "optimizer.safetensors")
    assert not [name for name in optimizer if "embed_tokens" in name]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["frozen"]
    with pytest.raises(ValueError, match="frozen"):
        Run.open(tmp_path / "run", build=lambda: build(MOVE, freeze=True, seed=1), corpus=Corpus(), recipe=recipe())
