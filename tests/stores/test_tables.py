"""Safetensors written row by row are what the format's own library writes and reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vademecum import files
from vademecum.stores import base, tables
from vademecum.stores.ram import Ram

DTYPES = [*tables.DTYPES.values()]


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=5),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=5, max_size=5),
)
def test_any_tensors_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], dtypes: list[torch.dtype]
) -> None:
    path = tmp_path_factory.mktemp("tables") / "t.safetensors"
    tensors = {
        f"name {i}": (torch.rand(shape) * 100).to(dtype)
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    tables.write(path, tensors)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
        entry = tables.find(path, name)
        assert entry.offset % tensor.dtype.itemsize == 0
        raw = path.read_bytes()[entry.offset : entry.offset + entry.nbytes]
        assert raw == tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else raw == b""


def test_a_table_is_written_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CHUNK", 64)
    table = torch.randn(40, 2, 4)
    pieces = list(Ram(table).chunks())
    assert max(piece.numel() * 4 for piece in pieces) <= 64
    tables.write(tmp_path / "t.safetensors", {"table": Ram(table), "strided": table[:, 0].t()})
    read = load_file(tmp_path / "t.safetensors")
    assert torch.equal(read["table"], table)
    assert torch.equal(read["strided"], table[:, 0].t())


def test_places_are_found_in_a_file_of_the_formats_own_library(tmp_path: Path) -> None:
    table = torch.randn(7, 3).to(torch.bfloat16)
    save_file(
        {"a": torch.ones(3, dtype=torch.uint8), "t": table}, tmp_path / "t.safetensors", metadata={"who": "cares"}
    )
    entry = tables.find(tmp_path / "t.safetensors", "t")
    assert (entry.dtype, entry.shape) == (torch.bfloat16, (7, 3))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 40,
        (5).to_bytes(8, "little") + b"[1,2]",
        (9).to_bytes(8, "little") + b'{"a": 1} ',
        (60).to_bytes(8, "little") + json.dumps({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}).encode(),
    ],
)
def test_what_is_no_such_file_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(files.Damaged, match="no safetensors file"):
        tables.entries(tmp_path / "t")


def test_a_store_filled_with_too_few_rows_says_so() -> None:
    store = Ram(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="3 rows were given for a table of 4"):
        store.fill(iter([torch.ones(3, 2)]))
