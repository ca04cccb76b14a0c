"""Single files, pointers, lines and names."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum import files
from vademecum.files import Damaged


@given(st.one_of(st.binary(max_size=100), st.text(max_size=100)), st.binary(max_size=100))
def test_write_file_replaces_the_bytes_and_leaves_nothing_beside(data: bytes | str, old: bytes) -> None:
    with tempfile.TemporaryDirectory() as base:
        path = Path(base) / "f"
        path.write_bytes(old)
        files.write_file(path, data)
        assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
        assert os.listdir(base) == ["f"]


def test_a_file_that_few_may_read_is_so_from_the_first_byte_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "secret", []
    path.write_bytes(b"old")
    path.chmod(0o600)
    monkeypatch.setattr(files.os, "fsync", lambda file: seen.append(os.fstat(file).st_mode & 0o777))
    files.write_file(path, b"new")
    assert seen[0] == 0o600
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failed_write_file_keeps_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_file(tmp_path / "f", "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_file(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_pointer_moves_and_reads_back_and_is_none_before(tmp_path: Path) -> None:
    assert files.read_pointer(tmp_path / "latest") is None
    for name in ("step-1", "step-2"):
        files.move_pointer(tmp_path / "latest", name)
        assert files.read_pointer(tmp_path / "latest") == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\nb", " a"])
def test_a_pointer_takes_plain_names_only(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        files.move_pointer(tmp_path / "latest", name)


@pytest.mark.parametrize("data", [b"", b"\n", b"a\nb\n", b"\xff\xfe\n", b"../x\n"])
def test_a_spoilt_pointer_is_damaged(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "latest").write_bytes(data)
    with pytest.raises(Damaged, match="one name on one line"):
        files.read_pointer(tmp_path / "latest")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.text(), json_values, max_size=4), max_size=5))
def test_appended_lines_read_back_in_order(objects: list[dict[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as base:
        for obj in objects:
            files.append_line(Path(base) / "log.jsonl", obj)
        assert files.read_lines(Path(base) / "log.jsonl") == objects


def test_a_line_cut_short_spoils_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    files.append_line(path, {"step": 1})
    with open(path, "ab") as file:
        file.write(b'{"step": 2, "lo')
    files.append_line(path, {"step": 3})
    assert [line["step"] for line in files.read_lines(path)] == [1, 3]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    files.append_line(tmp_path / "l", {"loss": float("nan"), "all": [float("inf"), 1.0]})
    assert files.read_lines(tmp_path / "l") == [{"loss": None, "all": [None, 1.0]}]


@given(st.text(max_size=80), st.integers(4, 60))
def test_a_name_is_cut_between_letters_to_so_many_bytes(name: str, most: int) -> None:
    name = name.encode("utf-8", "replace").decode()
    cut = files.short(name, most)
    assert name.startswith(cut)
    assert len(cut.encode()) <= most
    assert cut == name or len(name[: len(cut) + 1].encode()) > most
