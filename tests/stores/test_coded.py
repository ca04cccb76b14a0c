"""Coded rows behind the seam of stores: what is read is what was encoded, folded and pruned rows included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from vademecum import files
from vademecum.ops import codes as ops
from vademecum.ops.codes import FORMATS
from vademecum.stores.coded import PRUNED, Coded, opened
from vademecum.stores.disk import Disk
from vademecum.stores.ram import Ram

ROWS, SLOTS, WIDTH = 40, 2, 24


def table() -> torch.Tensor:
    return torch.randn(ROWS, SLOTS, WIDTH, generator=torch.Generator().manual_seed(0))


def coded(name: str = "int8", index: torch.Tensor | None = None) -> Coded:
    form = FORMATS[name]
    return Coded(Ram(ops.encode(table(), form)), form, (SLOTS, WIDTH), index)


def decoded(name: str = "int8") -> torch.Tensor:
    form = FORMATS[name]
    return ops.decode(ops.encode(table(), form), form, SLOTS, WIDTH)


@pytest.mark.parametrize("name", FORMATS)
def test_gathering_decodes_what_was_encoded(name: str) -> None:
    ids = torch.tensor([0, 3, 39])
    store = coded(name)
    assert torch.equal(store.gather(ids), decoded(name)[ids])
    assert torch.equal(ops.decode(store.codes(ids), store.form, SLOTS, WIDTH), decoded(name)[ids])


@given(
    index=st.lists(st.integers(PRUNED, ROWS - 1), min_size=1, max_size=60),
    picked=st.sets(st.integers(0, 59)),
)
def test_an_index_sends_rows_to_where_they_are_stored_and_pruned_ones_to_zeros(
    index: list[int], picked: set[int]
) -> None:
    store = coded(index=torch.tensor(index, dtype=torch.int32))
    ids = torch.tensor(sorted(i for i in picked if i < len(index)), dtype=torch.int64)
    read = store.gather(ids)
    assert read.shape == (len(ids), SLOTS, WIDTH)
    for row, number in zip(read, ids.tolist(), strict=True):
        place = index[number]
        assert torch.equal(row, torch.zeros_like(row) if place == PRUNED else decoded()[place])
    assert torch.equal(torch.cat(list(store.chunks())), store.gather(torch.arange(len(index))))


def test_sizes_are_those_of_the_bytes_and_the_index() -> None:
    index = torch.zeros(1000, dtype=torch.int32)
    store = coded("int4", index)
    assert store.nbytes == ROWS * FORMATS["int4"].row_bytes(SLOTS, WIDTH) + 4000
    assert store.resident_bytes == store.nbytes
    assert store.shape == (1000, SLOTS, WIDTH)


def test_writing_is_refused_and_says_what_to_train() -> None:
    with pytest.raises(ValueError, match=r"int8 can only be read.*train the bank that it was made from"):
        coded().write(torch.tensor([0]), table()[:1])


def test_bytes_of_another_shape_and_an_index_past_the_end_are_refused() -> None:
    form = FORMATS["int8"]
    with pytest.raises(ValueError, match=r"values in int8; expected uint8 \[52\]"):
        Coded(Ram(torch.zeros(3, 7, dtype=torch.uint8)), form, (SLOTS, WIDTH))
    with pytest.raises(ValueError, match="names rows from 0 to 40 of 40"):
        coded(index=torch.tensor([0, ROWS], dtype=torch.int32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    form = FORMATS["int4"]
    tensors = {
        "a.weight.codes": ops.encode(table(), form),
        "a.weight.index": torch.arange(ROWS - 1, -1, -1, dtype=torch.int32),
        "b.weight.codes": ops.encode(table()[:8], form),
        "gate.weight": torch.ones(3),
    }
    save_file(tensors, tmp_path / "memory.safetensors")
    return tmp_path / "memory.safetensors"


def about(**changes: object) -> dict[str, object]:
    return {"format": "int4", "slots": SLOTS, "width": WIDTH, "rows": ROWS, **changes}


@pytest.mark.parametrize("on_disk", [True, False])
def test_banks_in_a_file_are_read_whether_they_stay_there_or_not(path: Path, on_disk: bool) -> None:
    banks = opened(path, {"a.weight": about(), "b.weight": about(rows=8)}, on_disk=on_disk)
    ids = torch.tensor([1, 5])
    assert banks["a.weight"].place == ("disk" if on_disk else "ram")
    assert torch.equal(banks["a.weight"].gather(ids), decoded("int4").flip(0)[ids])
    assert torch.equal(banks["b.weight"].gather(ids), decoded("int4")[ids])


def test_the_cap_is_shared_by_the_banks_and_kept(path: Path) -> None:
    banks = opened(path, {"a.weight": about(), "b.weight": about(rows=8)}, cap=4800)
    caps = {name: bank.cap for name, bank in banks.items()}
    assert caps == {"a.weight": 4000, "b.weight": 800}
    bank = banks["a.weight"]
    bank.gather(torch.arange(ROWS))
    assert isinstance(bank.stored, Disk)
    assert 0 < bank.stored.resident_bytes <= 4000


def test_prefetching_reads_what_the_index_names(path: Path) -> None:
    bank = opened(path, {"a.weight": about()})["a.weight"]
    bank.prefetch(torch.tensor([0, 2]))
    stored = bank.stored
    assert isinstance(stored, Disk)
    assert stored._running is not None
    stored._running.result()
    assert stored.cache.missing([ROWS - 1, ROWS - 3]) == []
    bank.close()


def test_a_file_that_is_not_what_the_description_says_is_named(path: Path) -> None:
    for said, message in (
        ({"c.weight": about()}, "holds no tensor 'c.weight.codes'"),
        ({"a.weight": about(width=25)}, "is not what memory.json says of 'a.weight'"),
        ({"a.weight": about(rows=41)}, "has 40 rows of 'a.weight' where memory.json says 41"),
    ):
        with pytest.raises(files.Damaged, match=message):
            opened(path, said)
    with pytest.raises(ValueError, match="did you mean 'int8'"):
        opened(path, {"a.weight": about(format="int88")})


@pytest.fixture
def pruned(tmp_path: Path) -> Path:
    """A bank of which only row 3 is kept, and one of which nothing is."""
    form = FORMATS["int4"]
    index = torch.full((ROWS,), PRUNED, dtype=torch.int32)
    none = index.clone()
    index[3] = 0
    tensors = {
        "a.weight.codes": ops.encode(table()[:1], form),
        "a.weight.index": index,
        "n.weight.codes": torch.empty(0, form.row_bytes(SLOTS, WIDTH), dtype=torch.uint8),
        "n.weight.index": none,
    }
    save_file(tensors, tmp_path / "pruned.safetensors")
    return tmp_path / "pruned.safetensors"


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "ram"])
@pytest.mark.parametrize("ids", [[], [0], [1, 2, 39]], ids=["no ids", "one pruned id", "pruned ids"])
def test_rows_that_are_all_pruned_read_as_zeros_and_no_ids_as_no_rows(
    pruned: Path, on_disk: bool, ids: list[int]
) -> None:
    banks = opened(pruned, {"a.weight": about(), "n.weight": about()}, on_disk=on_disk)
    for bank in banks.values():
        wanted = torch.tensor(ids, dtype=torch.int64)
        assert torch.equal(bank.gather(wanted), torch.zeros(len(ids), SLOTS, WIDTH))
        assert bank.codes(wanted).shape == (len(ids), FORMATS["int4"].row_bytes(SLOTS, WIDTH))
        bank.prefetch(wanted)
        bank.close()


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "ram"])
def test_a_bank_without_an_index_reads_no_ids_as_no_rows(path: Path, on_disk: bool) -> None:
    bank = opened(path, {"b.weight": about(rows=8)}, on_disk=on_disk)["b.weight"]
    none = torch.empty(0, dtype=torch.int64)
    assert bank.gather(none).shape == (0, SLOTS, WIDTH)
    bank.prefetch(none)
    bank.close()


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "ram"])
def test_a_bank_of_which_nothing_is_kept_streams_zeros(pruned: Path, on_disk: bool) -> None:
    bank = opened(pruned, {"n.weight": about()}, on_disk=on_disk)["n.weight"]
    assert torch.equal(torch.cat(list(bank.chunks())), torch.zeros(ROWS, SLOTS, WIDTH))


def test_ids_in_any_order_and_shape_can_be_prefetched(path: Path) -> None:
    banks = opened(path, {"a.weight": about(), "b.weight": about(rows=8)})
    for bank in banks.values():
        bank.prefetch(torch.tensor([[7, 0], [7, 3]]))
        stored = bank.stored
        assert isinstance(stored, Disk)
        assert stored._running is not None
        stored._running.result()
        wanted = [7, 0, 3] if bank.index is None else [ROWS - 8, ROWS - 1, ROWS - 4]
        assert stored.cache.missing(wanted) == []
        bank.close()


def test_the_refusal_to_be_written_can_be_asked_for_before(path: Path) -> None:
    bank = coded("int4")
    assert "train the bank that it was made from" in bank.refusal
    with pytest.raises(ValueError) as raised:
        bank.write(torch.tensor([0]), table()[:1])
    assert str(raised.value) == bank.refusal


def test_more_rows_than_the_cap_has_room_for_are_refused_as_their_codes_are(path: Path) -> None:
    row = FORMATS["int4"].row_bytes(SLOTS, WIDTH)
    bank = opened(path, {"a.weight": about()}, cap=3 * row)["a.weight"]
    bank.require_room(3)
    with pytest.raises(ValueError, match=r"4 rows .*bank_cap"):
        bank.require_room(4)
