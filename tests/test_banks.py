"""One switch for where a bank lives: the same answers, real sizes said, nothing half-done."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vademecum as vm
from tests import tiny
from vademecum import files
from vademecum.converting import convert
from vademecum.memory import placing
from vademecum.memory.base import Kind
from vademecum.stores import placement
from vademecum.stores.disk import Disk

KINDS: dict[str, tuple[Kind, ...]] = {
    "move": (vm.MoVE(slots=3),),
    "lave": (vm.LaVE(),),
    "both": (vm.MoVE(), vm.LaVE()),
    "values": (vm.BankOfValues(layers=[0]), vm.MemoryAttention(layers=[1])),
    "feed forward": (vm.TokenFFN(layers=[0]), vm.TokenFFN(mode="multiply", layers=[1])),
    "tabulated": (vm.LookupExperts(experts=2, tabulated=True),),
    "lattice": (vm.Lattice(slots=512, width=4, layers="all", out_std=1.0),),
    "ngram": (vm.NGram(layers="all", heads=2, width=16),),
    "product key": (vm.ProductKey(slots=64, heads=2, topk=3),),
    "peer": (vm.PEER(experts=36, heads=1, topk=2, replace=True),),
}
PLACES = ("device", "ram", "disk")
every_kind = pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)


def logits(model: Any, ids: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tiny.ids() if ids is None else ids).logits


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A memory with rows that are all different."""
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3), vm.LaVE(layers=[1]))
    tiny.shake(model)
    return vm.save(model, tmp_path / "saved")


@every_kind
@pytest.mark.parametrize("place", PLACES)
def test_a_memory_saved_from_anywhere_answers_the_same_bits_everywhere(
    kinds: tuple[Kind, ...], place: str, tmp_path: Path
) -> None:
    model = vm.attach(tiny.host("qwen3"), *kinds)
    tiny.shake(model)
    expected = logits(model)
    vm.save(model, tmp_path / "first")
    there = vm.load(tiny.host("qwen3"), tmp_path / "first", bank=place, bank_folder=tmp_path / "copy", bank_cap=9000)
    assert {bank.where for bank in vm.memories(there).banks().values()} == {place}
    assert torch.equal(expected, logits(there))
    vm.save(there, tmp_path / "second")
    assert (tmp_path / "first" / "memory.safetensors").read_bytes() == (
        tmp_path / "second" / "memory.safetensors"
    ).read_bytes()
    for other in PLACES:
        assert torch.equal(expected, logits(vm.load(tiny.host("qwen3"), tmp_path / "second", bank=other)))


@pytest.mark.parametrize("name", tiny.HOSTS)
def test_every_family_answers_the_same_bits_from_every_place(name: str, tmp_path: Path) -> None:
    model = vm.attach(tiny.host(name), vm.MoVE(slots=2))
    tiny.shake(model)
    vm.save(model, tmp_path)
    expected = logits(model)
    for place in ("ram", "disk"):
        assert torch.equal(expected, logits(vm.load(tiny.host(name), tmp_path, bank=place, bank_cap=5000)))


def test_generation_from_disk_equals_generation_from_memory(saved: Path) -> None:
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    whole = vm.load(tiny.host("qwen3"), saved, bank="device")
    disk = vm.load(tiny.host("qwen3"), saved, bank="disk", bank_cap=3000)
    for beams in (1, 3):
        vm.prefetch(disk, tiny.ids(length=4))
        expected = whole.generate(input_ids=tiny.ids(length=4), num_beams=beams, **settings)
        assert torch.equal(expected, disk.generate(input_ids=tiny.ids(length=4), num_beams=beams, **settings))
    for bank in vm.memories(disk).banks().values():
        assert bank.store.resident_bytes <= bank.store.cap
    assert sum(bank.store.cap for bank in vm.memories(disk).banks().values()) <= 3000


def test_rows_read_in_place_leave_the_file_as_it_is_and_cannot_be_trained(saved: Path) -> None:
    file = saved / "memory.safetensors"
    before = file.read_bytes()
    model = vm.load(tiny.host("qwen3"), saved, bank="disk")
    assert {bank.store.path for bank in vm.memories(model).banks().values()} == {file}
    with pytest.raises(ValueError, match="bank_folder=FOLDER"):
        vm.RowOptimizer(model, lr=1e-3)
    logits(model)
    assert file.read_bytes() == before


def test_a_copy_of_a_bank_on_disk_is_trained_and_the_saved_one_stays(saved: Path, tmp_path: Path) -> None:
    file = saved / "memory.safetensors"
    before = file.read_bytes()
    model = vm.load(tiny.host("qwen3"), saved, bank="disk", bank_folder=tmp_path / "work")
    first = logits(model)
    rows = vm.RowOptimizer(model, lr=1e-2)
    model(input_ids=tiny.ids(), labels=tiny.ids()).loss.backward()
    rows.step()
    assert not torch.equal(first, logits(model))
    assert file.read_bytes() == before
    assert "weight" in load_file(tmp_path / "work" / "move.shared.safetensors")


def test_real_sizes_are_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.INFO, logger="vademecum"):
        model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2), bank="disk", bank_folder=tmp_path, bank_cap="1kB")
    path = tmp_path / "move.shared.safetensors"
    said = f"move.shared.weight: 61 rows, 7.81 kB on disk ({path}), at most 1.00 kB of it in memory"
    assert said in caplog.text
    table = repr(vm.memories(model))
    assert "disk" in table
    assert (tmp_path / "move.shared.safetensors").stat().st_size >= 61 * 2 * 16 * 4
    assert placing.sizes(vm.memories(vm.attach(tiny.host("qwen3"), vm.LaVE(layers=[0]))).banks()) == [
        "lave.layers.0.bank.weight: 61 rows, 3.90 kB on device"
    ]


def test_auto_goes_to_disk_where_memory_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "free_bytes", lambda device: 8000)
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2))
    (bank,) = vm.memories(model).banks().values()
    assert bank.where == "disk"
    folder = bank.store.path.parent
    assert folder.is_dir()
    vm.detach(model)
    del model, bank
    import gc

    gc.collect()
    assert not folder.exists(), "a folder that nobody named goes with the memory"


def test_a_bank_in_a_store_is_no_parameter_and_stays_when_the_model_moves(saved: Path) -> None:
    model = vm.load(tiny.host("qwen3"), saved, bank="ram")
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if name.endswith("bank.weight") or "shared" in name]
    tables = [bank.store.tensor for bank in vm.memories(model).banks().values()]
    model.to(torch.bfloat16)
    assert all(bank.store.tensor is t for bank, t in zip(vm.memories(model).banks().values(), tables, strict=True))
    assert logits(model).dtype == torch.bfloat16


def test_a_bank_in_another_type_than_the_hosts_is_read_as_it_is_kept(tmp_path: Path) -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2), bank_dtype=torch.bfloat16)
    tiny.shake(model)
    vm.save(model, tmp_path / "saved")
    assert load_file(tmp_path / "saved" / "memory.safetensors")["move.shared.weight"].dtype == torch.bfloat16
    expected = logits(model)
    for place in PLACES:
        assert torch.equal(expected, logits(vm.load(tiny.host("qwen3"), tmp_path / "saved", bank=place)))


def test_a_grown_host_gets_rows_in_memory_and_in_a_copy_and_is_refused_in_place(saved: Path, tmp_path: Path) -> None:
    def grown() -> Any:
        host = tiny.host("qwen3")
        host.resize_token_embeddings(tiny.VOCABULARY + 3, mean_resizing=False)
        return host

    new = torch.tensor([[tiny.VOCABULARY + 2, 5]])
    expected = logits(vm.load(grown(), saved, bank="device"), new)
    assert torch.equal(expected, logits(vm.load(grown(), saved, bank="ram"), new))
    assert torch.equal(expected, logits(vm.load(grown(), saved, bank="disk", bank_folder=tmp_path / "c"), new))
    host = grown()
    with pytest.raises(ValueError, match="bank_folder= for a copy that fits"):
        vm.load(host, saved, bank="disk")
    assert not hasattr(host, "vademecum")


def test_a_bank_that_finds_no_room_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.host("qwen3")
    before, names = logits(model), [name for name, _ in model.named_modules()]

    def full(*_: Any, **__: Any) -> Disk:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Disk, "create", full)
    with pytest.raises(OSError, match="No space left"):
        vm.attach(model, vm.MoVE(), bank="disk", bank_folder=tmp_path)
    assert [name for name, _ in model.named_modules()] == names
    assert torch.equal(before, logits(model))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bank": "dsk"}, "did you mean 'disk'"),
        ({"bank_cap": "lots"}, "expected bytes such as"),
        ({"bank_cap": -5}, "expected a number of bytes"),
        ({"bank_cap": True}, "expected bytes such as"),
        ({"bank_cap": [3]}, "expected bytes such as"),
        ({"bank_folder": ""}, "expected the path of a folder"),
        ({"bank_folder": 3}, "expected the path of a folder"),
        ({"bank_folder": __file__}, "is a file"),
        ({"bank_dtype": torch.int8}, "fewer bits are for afterwards"),
        ({"bank_dtype": "bf16"}, "expected one of torch.float32"),
    ],
)
def test_a_wrong_switch_is_answered_before_anything_is_touched(given: dict[str, Any], said: str) -> None:
    model = tiny.host("qwen3")
    with pytest.raises(ValueError, match=said):
        vm.attach(model, vm.MoVE(), **given)
    assert not hasattr(model, "vademecum")


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_a_compiled_model_reads_its_store_before_the_first_layer(saved: Path, place: str) -> None:
    model = vm.load(tiny.host("qwen3"), saved, bank=place)
    expected = logits(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(input_ids=tiny.ids()).logits, expected)
    torch._dynamo.reset()


def test_an_id_past_the_last_row_is_said_wherever_the_bank_lives(saved: Path) -> None:
    for place in PLACES:
        model = vm.load(tiny.host("qwen3"), saved, bank=place)
        with pytest.raises(ValueError, match="rows 0 to 60"):
            model.model(inputs_embeds=torch.zeros(1, 2, 32), memory_ids=torch.tensor([[3, tiny.VOCABULARY]]))


def test_a_load_that_cannot_be_changes_nothing(saved: Path, tmp_path: Path) -> None:
    model = vm.load(tiny.host("qwen3"), saved, bank="disk")
    before = logits(model)
    other = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3), vm.LaVE(layers=[1]))
    tiny.shake(other, seed=9)
    vm.save(other, tmp_path / "other")
    with pytest.raises(ValueError, match=r"call vm\.detach\(model\) first"):
        vm.load(model, tmp_path / "other")
    assert torch.equal(before, logits(model))


def test_a_copy_may_not_be_trained_within_what_was_saved(saved: Path) -> None:
    for folder in (saved, saved / "work"):
        with pytest.raises(ValueError, match="must stay as it is"):
            vm.load(tiny.host("qwen3"), saved, bank="disk", bank_folder=folder)
    vm.load(tiny.host("qwen3"), saved)


def test_two_models_do_not_train_in_one_file(tmp_path: Path) -> None:
    first = vm.attach(tiny.host("qwen3"), vm.MoVE(), bank="disk", bank_folder=tmp_path)
    second = tiny.host("qwen3")
    with pytest.raises(ValueError, match=r"is being trained in .* already"):
        vm.attach(second, vm.MoVE(), bank="disk", bank_folder=tmp_path)
    assert not hasattr(second, "vademecum")
    logits(first)


def test_a_row_that_is_not_finite_is_named_in_every_place(saved: Path, tmp_path: Path) -> None:
    model = vm.load(tiny.host("qwen3"), saved, bank="device")
    with torch.no_grad():
        vm.memories(model).banks()["move.shared.weight"].weight[7, 1, 2] = float("nan")
    vm.save(model, tmp_path / "bad")
    for place in ("device", "ram"):
        with pytest.raises(files.Damaged, match=r"row 7 of move\.shared\.weight is not finite"):
            vm.load(tiny.host("qwen3"), tmp_path / "bad", bank=place)
    disk = vm.load(tiny.host("qwen3"), tmp_path / "bad", bank="disk")
    with pytest.raises(files.Damaged, match=r"row 7 of 'move\.shared\.weight'"):
        logits(disk, torch.tensor([[3, 7]]))


def test_prefetching_is_checked_like_reading(saved: Path) -> None:
    for place in ("ram", "disk"):
        model = vm.load(tiny.host("qwen3"), saved, bank=place)
        with pytest.raises(ValueError, match="rows 0 to 60"):
            vm.prefetch(model, torch.tensor([61]))
    with pytest.raises(ValueError, match="expected a tensor of token ids"):
        vm.prefetch(model, [1, 2])
    vm.prefetch(model, torch.tensor([], dtype=torch.int64))


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("place", ["ram", "disk"])
def test_every_kind_of_bank_is_read_compressed(kinds: tuple[Kind, ...], place: str, tmp_path: Path) -> None:
    model = vm.attach(tiny.host("qwen3"), *kinds)
    tiny.shake(model)
    expected = logits(model)
    vm.save(model, tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "int8", bank="int8")
    compressed = vm.load(tiny.host("qwen3"), tmp_path / "int8", bank=place, bank_cap=30_000)
    assert not torch.equal(expected, logits(compressed))
    torch.testing.assert_close(logits(compressed), expected, rtol=0.05, atol=0.02)
    # With ids to keep, only banks that are read by token lose rows: those of the ids that are left out.
    convert(tmp_path / "saved", tmp_path / "kept", bank="bf16", prune=True, keep=tiny.ids().unique())
    kept = vm.load(tiny.host("qwen3"), tmp_path / "kept", bank=place, bank_cap=30_000)
    torch.testing.assert_close(logits(kept), expected, rtol=0.05, atol=0.02)
