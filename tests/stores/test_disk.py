"""Rows in a file: the same as in memory whatever is asked for, within the cap, and never stale."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vademecum import files
from vademecum.stores.cache import ENTRY, RowCache
from vademecum.stores.disk import MANY, Disk

ROWS, SHAPE = 300, (3, 8)
ROW = 3 * 8 * 4 + ENTRY


@pytest.fixture
def table() -> torch.Tensor:
    return torch.randn(ROWS, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def path(tmp_path: Path, table: torch.Tensor) -> Path:
    save_file({"odd": torch.ones(3, dtype=torch.uint8), "table": table}, tmp_path / "t.safetensors")
    return tmp_path / "t.safetensors"


def some(ids: set[int] | list[int]) -> torch.Tensor:
    return torch.tensor(sorted(ids), dtype=torch.int64)


def test_rows_are_those_of_the_file_cold_and_warm(path: Path, table: torch.Tensor) -> None:
    disk = Disk(path, "table", cap=20 * ROW)
    for ids in ([0, 1, 2, 7, 299], [2, 7], list(range(ROWS)), list(range(0, ROWS, 2))):
        for _ in range(2):
            assert torch.equal(disk.gather(some(ids)), table[ids])
    assert ROWS > MANY, "many runs of rows go through the threads"
    assert torch.equal(torch.cat(list(disk.chunks())), table)


def test_what_was_read_is_not_read_again(path: Path) -> None:
    disk = Disk(path, "table", cap=20 * ROW)
    ids = some(range(10))
    disk.gather(ids)
    read = disk.bytes_read
    assert read == 10 * disk.row_bytes
    disk.gather(ids)
    assert disk.bytes_read == read
    assert (disk.cache.hits, disk.cache.misses) == (10, 10)


@given(
    asked=st.lists(st.sets(st.integers(0, ROWS - 1), min_size=1, max_size=60), min_size=1, max_size=12),
    capacity=st.integers(0, 40),
)
def test_a_file_that_is_written_equals_a_tensor_that_is_written_within_the_cap(
    tmp_path_factory: pytest.TempPathFactory, asked: list[set[int]], capacity: int
) -> None:
    path = tmp_path_factory.mktemp("disk") / "w.safetensors"
    disk = Disk.create(path, "table", ROWS, SHAPE, torch.float32, cap=capacity * ROW)
    expected = torch.zeros(ROWS, *SHAPE)
    for number, (ids, ahead) in enumerate(zip(asked, [*asked[1:], {0}], strict=True)):
        wanted = some(ids)
        disk.prefetch(some(ahead))
        assert torch.equal(disk.gather(wanted), expected[wanted])
        values = torch.full((len(ids), *SHAPE), float(number + 1))
        disk.write(wanted, values)
        expected[wanted] = values
        assert torch.equal(disk.gather(wanted), expected[wanted])
        assert len(disk.cache) <= capacity
        assert disk.resident_bytes <= disk.cap
    disk.close()
    assert torch.equal(load_file(path)["table"], expected)


def test_a_prefetched_row_is_a_hit_and_one_that_was_written_meanwhile_is_not_brought_back(path: Path) -> None:
    disk = Disk(path, "table", cap=50 * ROW, writable=True)
    started, go_on = [], []
    read = disk._read

    def slow(rows, out):
        read(rows, out)
        started.append(rows)
        while not go_on:
            os.sched_yield()

    disk._read = slow
    disk.prefetch(some(range(20)))
    while not started:
        os.sched_yield()
    disk._read = read
    disk.write(some([3]), torch.full((1, *SHAPE), 9.0))
    go_on.append(True)
    disk._running.result()
    hits = disk.cache.hits
    got = disk.gather(some(range(20)))
    assert disk.cache.hits == hits + 19
    assert torch.equal(got[3], torch.full(SHAPE, 9.0))


def test_a_table_opened_for_reading_says_how_to_train_it(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match="bank_folder=FOLDER"):
        Disk(path, "table").write(some([1]), torch.zeros(1, *SHAPE))
    assert path.read_bytes() == before


def test_a_file_cut_short_is_damaged_when_opened_and_when_read(path: Path, table: torch.Tensor) -> None:
    reader, writer = Disk(path, "table"), Disk(path, "table", writable=True)
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 4000)
    with pytest.raises(files.Damaged, match="ended at byte"):
        writer.gather(some([ROWS - 1]))
    with pytest.raises(files.Damaged, match="was changed while rows were read"):
        reader.gather(some([0]))
    with pytest.raises(files.Damaged, match="header lists"):
        Disk(path, "table")


def test_a_tensor_that_is_not_there_is_named_with_those_that_are(path: Path) -> None:
    with pytest.raises(KeyError, match="odd, table"):
        Disk(path, "tabel")


def test_a_reader_can_be_copied_and_a_writer_cannot(path: Path, table: torch.Tensor) -> None:
    import copy

    twin = copy.deepcopy(Disk(path, "table"))
    assert torch.equal(twin.gather(some([5])), table[5:6])
    with pytest.raises(ValueError, match="two would write one file"):
        copy.deepcopy(Disk(path, "table", writable=True))


def test_the_least_recently_used_row_goes_first() -> None:
    cache = RowCache(2 * (4 + ENTRY), 10, (1,), torch.float32)
    rows = torch.arange(10.0).unsqueeze(1)
    cache.put([1, 2], rows[[1, 2]])
    assert cache.take([1], torch.empty(1, 1)) == []
    cache.put([3], rows[[3]])
    out = torch.zeros(3, 1)
    assert cache.take([1, 2, 3], out) == [1], "2 was used longest ago"
    assert out.flatten().tolist() == [1.0, 0.0, 3.0]


def test_a_new_file_takes_the_place_of_an_old_one_and_is_zeros(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "w.safetensors"
    for _ in range(2):
        disk = Disk.create(path, "w", 5, (2,), torch.bfloat16)
        with pytest.raises(ValueError, match=r"is being trained in .* already"):
            Disk.create(path, "w", 5, (2,), torch.bfloat16)
        assert not disk.gather(some([0, 4])).any()
        disk.write(some([4]), torch.ones(1, 2))
        disk.close()
    assert load_file(path)["w"].sum() == 2


def test_a_file_that_is_written_into_under_its_reader_is_noticed(path: Path) -> None:
    disk = Disk(path, "table")
    disk.gather(some([0]))
    with open(path, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    os.utime(path, (1, 1))
    with pytest.raises(files.Damaged, match="was changed while rows were read"):
        disk.gather(some([0]))


def test_a_copy_reads_the_file_that_was_opened_whatever_lies_under_its_name_now(
    path: Path, table: torch.Tensor
) -> None:
    import copy

    disk = Disk(path, "table")
    path.unlink()
    save_file({"table": torch.zeros_like(table)}, path)
    assert torch.equal(copy.deepcopy(disk).gather(some([7])), table[7:8])


def test_a_row_that_is_not_finite_is_named_when_it_is_read(tmp_path: Path, table: torch.Tensor) -> None:
    table[17, 1, 2] = float("nan")
    save_file({"table": table}, tmp_path / "n.safetensors")
    disk = Disk(tmp_path / "n.safetensors", "table")
    disk.gather(some([16, 18]))
    with pytest.raises(files.Damaged, match=r"row 17 of 'table' .* not finite"):
        disk.gather(some([16, 17]))


def test_a_disk_that_fills_names_its_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    disk = Disk(path, "table", writable=True)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        disk.write(some([3]), torch.ones(1, *SHAPE))
    assert caught.value.filename == str(path)


def test_a_table_in_a_file_cannot_be_pickled_and_says_what_to_do(path: Path) -> None:
    import pickle

    with pytest.raises(ValueError, match=r"vm\.save"):
        pickle.dumps(Disk(path, "table"))


def test_asking_for_nothing_gives_nothing(path: Path) -> None:
    assert Disk(path, "table").gather(some([])).shape == (0, *SHAPE)
