from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum import files
from vademecum.files import Damaged

ALONE = {
    **os.environ,
    "PYTHONPATH": str(Path(files.__file__).parent),
}  # a child imports files.py by itself: quick to start

names = st.text("abcXYZ019._-é ", min_size=1, max_size=8).filter(lambda name: name.strip(". ") == name)
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=200), min_size=1, max_size=5
).filter(
    lambda tree: files.MANIFEST not in tree and not any(a != b and b.startswith(a + "/") for a in tree for b in tree)
)


def put(tree: dict[str, bytes]):
    def fill(folder: Path) -> None:
        for name, data in tree.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    return fill


def read(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    files.write_folder(tmp_path / "saved", put({"a.bin": b"0123456789", "sub/b.txt": b"hello"}))
    return tmp_path / "saved"


@given(trees)
def test_a_written_folder_verifies_and_holds_exactly_what_was_filled(tree: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as base:
        target = Path(base) / "deep" / "target"
        files.write_folder(target, put(tree))
        hashes = files.verify_folder(target)
        content = read(target)
        del content[files.MANIFEST]
        assert content == tree
        assert set(hashes) == set(tree)
        assert all(files.sha256(target / name) == digest for name, digest in hashes.items())
        assert os.listdir(target.parent) == ["target"]


@given(trees, trees)
def test_writing_again_replaces_the_whole_folder(old: dict[str, bytes], new: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as base:
        target = Path(base) / "target"
        files.write_folder(target, put(old))
        files.write_folder(target, put(new))
        assert set(files.verify_folder(target)) == set(new)
        assert os.listdir(base) == ["target"]


@given(trees, st.data())
def test_any_changed_byte_is_found_and_its_file_named(tree: dict[str, bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as base:
        target = Path(base) / "target"
        files.write_folder(target, put(tree))
        victim = data.draw(st.sampled_from(sorted(name for name, content in read(target).items() if content)))
        content = bytearray((target / victim).read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        (target / victim).write_bytes(content)
        with pytest.raises(Damaged) as caught:
            files.verify_folder(target)
        assert str(target) in str(caught.value)


@given(trees, st.data())
def test_any_truncation_is_found(tree: dict[str, bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as base:
        target = Path(base) / "target"
        files.write_folder(target, put(tree))
        victim = data.draw(st.sampled_from(sorted(name for name, content in read(target).items() if content)))
        size = (target / victim).stat().st_size
        os.truncate(target / victim, data.draw(st.integers(0, size - 1)))
        with pytest.raises(Damaged):
            files.verify_folder(target)


def test_a_missing_file_is_named(saved: Path) -> None:
    (saved / "sub/b.txt").unlink()
    with pytest.raises(Damaged, match=r"b\.txt is missing"):
        files.verify_folder(saved)


def test_an_extra_file_is_named(saved: Path) -> None:
    (saved / "sub/c.txt").write_text("x")
    with pytest.raises(Damaged, match=r"c\.txt is not listed"):
        files.verify_folder(saved)


def test_a_symbolic_link_is_refused_when_read_even_if_it_points_to_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    (saved / "a.bin").rename(tmp_path / "elsewhere")
    (saved / "a.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Damaged, match=r"a\.bin is a symbolic link"):
        files.verify_folder(saved)


def test_a_symbolic_link_is_refused_when_written(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="symbolic link"):
        files.write_folder(tmp_path / "t", lambda folder: (folder / "l").symlink_to("/etc/hostname"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_manifest_is_damaged_and_a_missing_one_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(Damaged, match="has no manifest"):
        files.verify_folder(tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        files.verify_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a.bin": 3}', '{"a.bin": {"bytes": 10}}', "\xff"])
def test_a_manifest_that_is_not_one_is_damaged(saved: Path, text: str) -> None:
    (saved / files.MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(Damaged, match="is not as it was written"):
        files.verify_folder(saved)


def test_a_manifest_cannot_point_outside_its_folder(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    listed = json.loads((saved / files.MANIFEST).read_text())
    listed["../outside"] = {"sha256": files.sha256(tmp_path / "outside"), "bytes": 1}
    (saved / files.MANIFEST).write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n")
    with pytest.raises(Damaged, match="outside is missing"):
        files.verify_folder(saved)


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_a_failure_while_filling_leaves_the_old_folder_and_nothing_else(saved: Path, error: BaseException) -> None:
    before = read(saved)

    def fill(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        files.write_folder(saved, fill)
    assert read(saved) == before
    assert os.listdir(saved.parent) == ["saved"]


@pytest.mark.parametrize("at", range(1, 12))
def test_a_full_disk_at_any_sync_leaves_old_or_new_whole(saved: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, sync = [], os.fsync

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with contextlib.suppress(OSError):
        files.write_folder(saved, put({"n.bin": b"new", "sub/m.bin": b"newer"}))
    assert set(files.verify_folder(saved)) in ({"a.bin", "sub/b.txt"}, {"n.bin", "sub/m.bin"})
    assert os.listdir(saved.parent) == ["saved"]


@pytest.mark.parametrize("at", [1, 2])
def test_a_failing_rename_leaves_the_old_folder(saved: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls, rename = read(saved), [], Path.rename

    def failing(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == at:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        files.write_folder(saved, put({"n.bin": b"new"}))
    assert read(saved) == before
    assert os.listdir(saved.parent) == ["saved"]


def test_a_folder_of_someone_elses_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        files.write_folder(tmp_path / "mine", put({"a": b"1"}))
    assert (tmp_path / "mine/thesis.tex").read_text() == "years of work"


def test_a_written_folder_with_a_file_added_by_the_user_is_not_replaced(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        files.write_folder(saved, put({"a": b"1"}))
    assert (saved / "notes.txt").exists()


def test_an_empty_folder_may_be_filled_and_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    files.write_folder(tmp_path / "empty", put({"a": b"1"}))
    assert set(files.verify_folder(tmp_path / "empty")) == {"a"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="is a file"):
        files.write_folder(tmp_path / "file", put({"a": b"1"}))


def test_fill_may_not_write_the_manifest_itself_but_may_hold_a_written_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="written by write_folder itself"):
        files.write_folder(tmp_path / "t", put({files.MANIFEST: b"{}"}))
    files.write_folder(tmp_path / "t", lambda folder: files.write_folder(folder / "memory", put({"a": b"1"})))
    assert set(files.verify_folder(tmp_path / "t")) == {"memory/a", "memory/manifest.json"}
    assert set(files.verify_folder(tmp_path / "t/memory")) == {"a"}


def test_many_writers_of_one_folder_leave_one_whole_version(tmp_path: Path) -> None:
    target, errors = tmp_path / "t", []

    def write(number: int) -> None:
        try:
            for _ in range(5):
                files.write_folder(target, put({f"{number}-{k}": bytes([number]) * 50 for k in range(3)}))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({name[0] for name in files.verify_folder(target)}) == 1
    assert os.listdir(tmp_path) == ["t"]


WRITER = """
import sys
from pathlib import Path
import files
def fill(folder):
    for k in range(20):
        (folder / f"{k}.bin").write_bytes(bytes([round % 256]) * 5000)
for round in range(100000):
    files.write_folder(Path(sys.argv[1]), fill)
    if round == 0:
        print("first", flush=True)
"""


@pytest.mark.parametrize("delay", [0.003, 0.008, 0.015, 0.021, 0.034, 0.05])
def test_kill_9_at_any_moment_leaves_the_old_or_the_new_folder_and_the_next_write_cleans_up(
    tmp_path: Path, delay: float
) -> None:
    target = tmp_path / "t"
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, env=ALONE)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(delay)
    child.kill()
    child.wait()
    child.stdout.close()
    assert len(files.verify_folder(target)) == 20
    assert len({(target / f"{k}.bin").read_bytes() for k in range(20)}) == 1
    files.write_folder(target, put({"a": b"1"}))
    assert os.listdir(tmp_path) == ["t"]


KILLED_BETWEEN = """
import os, sys, signal
from pathlib import Path
import files
rename, calls = Path.rename, []
def cut(self, target):
    calls.append(self)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = cut
files.write_folder(Path(sys.argv[1]), lambda folder: (folder / "new").write_bytes(b"new"))
"""


@pytest.mark.parametrize("then", ["verify", "write"])
def test_a_kill_between_the_two_renames_is_undone_by_the_next_reader_or_writer(saved: Path, then: str) -> None:
    code = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(saved)], env=ALONE).returncode
    assert code == -signal.SIGKILL
    assert not saved.exists()
    if then == "write":
        files.write_folder(saved, put({"b": b"2"}))
        assert set(files.verify_folder(saved)) == {"b"}
        assert os.listdir(saved.parent) == ["saved"]
    else:
        assert set(files.verify_folder(saved)) == {"a.bin", "sub/b.txt"}


def test_work_of_a_running_process_or_of_another_machine_is_not_swept(saved: Path) -> None:
    mine = saved.with_name(f"saved.tmp-{files._machine()}-{os.getpid()}-aa")
    other = saved.with_name(f"saved.tmp-not{files._machine()}-{2**22 + 1}-bb")
    dead = saved.with_name(f"saved.tmp-{files._machine()}-{2**22 + 1}-cc")
    for folder in (mine, other, dead):
        folder.mkdir()
    assert socket.gethostname()
    files.write_folder(saved, put({"b": b"2"}))
    assert (mine.exists(), other.exists(), dead.exists()) == (True, True, False)
