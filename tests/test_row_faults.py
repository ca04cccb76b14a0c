"""What goes wrong beside an optimizer by rows: gradients looked at, steps torn, disks full, caps too small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vademecum as vm
from tests import tiny
from tests.test_rows import backward, model_of, whole
from vademecum.rows import RULES


def ledger_of(model: Any) -> Any:
    return vm.memories(model).banks()["move.shared.weight"].ledger


def test_gradients_add_up_until_they_are_cleared_whoever_looks_at_them_between() -> None:
    tables = []
    for looks in (False, True):
        model = model_of(vm.MoVE(slots=2))
        rows = vm.RowOptimizer(model, lr=1e-2)
        for seed in (0, 1):
            backward(model, seed)
            if looks:
                assert rows.grad_norms()[0] > 0
        first = rows.grad_norms()[0].clone()
        rows.step()
        assert torch.equal(rows.grad_norms()[0], first), "a step leaves the gradients as they are"
        backward(model, 2)
        assert not torch.equal(rows.grad_norms()[0], first)
        rows.step()
        rows.zero_grad()
        assert rows.grad_norms() == []
        tables.append(whole(model)["move.shared.weight"])
    assert torch.equal(*tables)


def test_a_gradient_that_is_not_finite_is_named_and_changes_nothing() -> None:
    model = model_of(vm.MoVE(slots=2), vm.LaVE(layers=[0]))
    rows = vm.RowOptimizer(model, lr=1e-2)
    before = whole(model)
    (model(input_ids=tiny.ids()).logits.sum() * float("nan")).backward()
    with pytest.raises(FloatingPointError, match=r"row \d+ of move.shared.weight is not finite; nothing was changed"):
        rows.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in whole(model).items())
    rows.zero_grad()
    backward(model, 0)
    rows.step()


def test_a_disk_that_fills_in_a_step_ends_the_training_and_what_was_saved_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    model = model_of(vm.MoVE(slots=2), bank="disk", bank_folder=tmp_path / "bank")
    rows = vm.RowOptimizer(model, lr=1e-2)
    vm.save(model, tmp_path / "saved")
    before = (tmp_path / "saved" / "memory.safetensors").read_bytes()
    backward(model, 0)
    written, done = os.pwrite, []

    def full(*args: Any) -> int:
        done.append(args)
        if len(done) > 5:
            raise OSError(28, "No space left on device")
        return written(*args)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        rows.step()
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="go on from what was saved last"):
        rows.step()
    assert (tmp_path / "saved" / "memory.safetensors").read_bytes() == before
    del rows
    vm.load(tiny.host("qwen3"), tmp_path / "saved")


def test_state_that_finds_no_room_leaves_the_banks_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vademecum.stores.disk import Disk

    model = model_of(vm.MoVE(slots=2), bank="disk", bank_folder=tmp_path)

    def full(*_: Any, **__: Any) -> Disk:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "create", full)
        with pytest.raises(OSError, match="No space left"):
            vm.RowOptimizer(model, lr=1e-2)
    rows = vm.RowOptimizer(model, lr=1e-2)
    assert {path.name for path in tmp_path.iterdir()} >= {"move.shared.square.safetensors"}
    rows.release()
    assert [path.name for path in tmp_path.iterdir()] == ["move.shared.safetensors"]
    with pytest.raises(RuntimeError, match="was released"):
        rows.step()


@pytest.mark.parametrize("rule", RULES)
def test_the_cap_is_shared_by_the_rows_and_the_optimizers_tables(rule: str, tmp_path: Path) -> None:
    model = model_of(vm.MoVE(slots=2), bank="disk", bank_folder=tmp_path, bank_cap=20_000)
    rows = vm.RowOptimizer(model, lr=1e-2, rule=rule)
    for start in range(0, 60, 10):
        model(input_ids=torch.arange(start, start + 10)[None]).logits.sum().backward()
        rows.step()
        rows.zero_grad()
        held = rows._held["move.shared.weight"]
        tables = [held.table, *held.state.values()]
        assert 0 < sum(table.resident_bytes for table in tables) <= 20_000
    rows.release()
    assert held.table.cap == 20_000


def test_a_cap_that_is_smaller_than_a_batch_says_how_much_it_takes(tmp_path: Path) -> None:
    model = model_of(vm.MoVE(slots=2), bank="disk", bank_folder=tmp_path, bank_cap=300)
    with pytest.raises(ValueError, match=r"needs 16 rows of .* at once, 2,048 bytes, where 300 may be in memory"):
        model(input_ids=tiny.ids())


def test_a_copy_of_a_model_in_training_is_lent_to_nobody() -> None:
    import copy

    model = model_of(vm.MoVE(slots=2))
    vm.RowOptimizer(model, lr=1e-2)
    twin = copy.deepcopy(model)
    assert ledger_of(twin) is None
    backward(twin, 0)
    assert vm.memories(twin).banks()["move.shared.weight"].weight.grad.any()
    assert ledger_of(model).merge() is None
    assert len(vm.RowOptimizer(twin, lr=1e-2)) == 1


@pytest.mark.parametrize("lr", [0, -1.0, float("nan"), float("inf"), "1e-3", None, True])
def test_a_rate_that_is_none_is_refused(lr: Any) -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        vm.RowOptimizer(model_of(vm.MoVE(slots=2)), lr=lr)


def test_a_model_that_is_cast_or_moved_between_two_steps_goes_on_learning() -> None:
    model = model_of(vm.MoVE(slots=2))
    rows = vm.RowOptimizer(model, lr=1e-2)
    model.double()
    model.float()
    before = whole(model)["move.shared.weight"]
    backward(model, 0)
    rows.step()
    assert not torch.equal(before, whole(model)["move.shared.weight"])


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_a_bank_that_nobody_trains_says_so_in_a_training_forward(place: str) -> None:
    model = model_of(vm.MoVE(slots=2), bank=place)
    with pytest.warns(RuntimeWarning, match=r"make a vm\.RowOptimizer"):
        backward(model, 0)
