from __future__ import annotations

import dataclasses
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from vademecum import data
from vademecum.data import wheels
from vademecum.files import Damaged


def zipped(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        for name, text in members.items():
            wheel.writestr(name, text)
    return buffer.getvalue()


CONTENT = zipped(a="hello")
WHEEL = wheels.Wheel(
    package="small-text", version="1.0", sha256=hashlib.sha256(CONTENT).hexdigest(), megabytes=0.1, options=("--x", "y")
)


class Index:
    """Stands in for pip: writes ``content`` where pip would, or fails saying ``error``; keeps what it was asked."""

    def __init__(self, content: bytes | None, error: str = "") -> None:
        self.content, self.error, self.asked = content, error, list[list[str]]()

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.asked.append(command)
        if self.content is None:
            return subprocess.CompletedProcess(command, 1, "", self.error)
        (Path(command[command.index("--dest") + 1]) / "small_text-1.0-py3-none-any.whl").write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(CONTENT)
    monkeypatch.setattr(subprocess, "run", index)
    return index


def test_a_wheel_is_asked_of_pip_once_without_dependencies_or_builds_and_then_read_from_the_cache(
    index: Index, tmp_path: Path
) -> None:
    for _ in range(2):
        assert wheels.fetch(WHEEL, tmp_path).read("a") == b"hello"
    assert len(index.asked) == 1
    command = index.asked[0]
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--x", "small-text==1.0"} <= set(command)
    assert wheels.stored(WHEEL, tmp_path).is_file()


def test_a_flipped_byte_in_the_cache_is_found_at_the_next_load_and_the_wheel_fetched_again(
    index: Index, tmp_path: Path
) -> None:
    wheels.fetch(WHEEL, tmp_path)
    path = wheels.stored(WHEEL, tmp_path)
    spoilt = bytearray(path.read_bytes())
    spoilt[9] ^= 1
    path.write_bytes(spoilt)
    assert wheels.fetch(WHEEL, tmp_path).read("a") == b"hello"
    assert len(index.asked) == 2
    assert path.read_bytes() == CONTENT


def test_other_bytes_than_the_pinned_ones_are_refused_and_not_kept(index: Index, tmp_path: Path) -> None:
    index.content = zipped(a="evil")
    with pytest.raises(Damaged, match=r"small-text==1\.0 with SHA-256 .* is pinned"):
        wheels.fetch(WHEEL, tmp_path)
    assert not wheels.stored(WHEEL, tmp_path).exists()


def test_a_python_without_pip_is_told_how_to_get_it(index: Index, tmp_path: Path) -> None:
    index.content, index.error = None, "/usr/bin/python3: No module named pip\n"
    with pytest.raises(wheels.NoPip, match="ensurepip"):
        wheels.fetch(WHEEL, tmp_path)


def test_a_failed_download_gives_pips_own_reason(index: Index, tmp_path: Path) -> None:
    index.content, index.error = None, "WARNING: retrying\nERROR: No matching distribution found\n"
    with pytest.raises(wheels.Unavailable, match="No matching distribution found"):
        wheels.fetch(WHEEL, tmp_path)


def test_the_cache_folder_follows_the_environment_at_the_time_of_the_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VADEMECUM_CACHE", str(tmp_path / "own"))
    assert data.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("VADEMECUM_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data.cache_folder() == tmp_path / "xdg" / "vademecum"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.cache_folder() == Path.home() / ".cache" / "vademecum"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert data.cache_folder() == Path.home() / "Library" / "Caches" / "vademecum"


def test_every_pinned_wheel_has_an_exact_version_and_a_hash() -> None:
    pinned = {wheel for source in data.sources().values() for wheel in source.wheels}
    assert len(pinned) == 5
    assert all(len(bytes.fromhex(wheel.sha256)) == 32 and wheel.requirement.count("==") == 1 for wheel in pinned)
    assert all(dataclasses.is_dataclass(wheel) for wheel in pinned)
