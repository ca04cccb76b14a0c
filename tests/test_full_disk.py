"""A full disk is one clear error, whatever the writer that met it raises."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vademecum import files


def _limited(write: Callable[[Path], object]) -> Callable[[Path], None]:
    """``write`` where no file may grow beyond 4 kB, so that the real writer fails in its own way."""

    def fill(folder: Path) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            write(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return fill


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda folder: save_file({"a": torch.zeros(100_000)}, str(folder / "a.safetensors")),
    "numpy": lambda folder: np.save(folder / "a.npy", np.zeros(100_000)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_as_such_and_leaves_the_old_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_folder(tmp_path / "saved", lambda folder: (folder / "old").write_bytes(b"old"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_folder(tmp_path / "saved", _limited(WRITERS[name]))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "saved")
    assert set(files.verify_folder(tmp_path / "saved")) == {"old"}
    assert os.listdir(tmp_path) == ["saved"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_fails_with_room_on_the_disk_keeps_its_own_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"requested|too large") as caught:
        files.write_folder(tmp_path / "saved", _limited(WRITERS[name]))
    assert getattr(caught.value, "errno", None) != errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_a_mistake_in_the_writer_is_not_taken_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))

    def fill(folder: Path) -> None:
        raise ValueError("the writer was told nonsense")

    with pytest.raises(ValueError, match="nonsense"):
        files.write_folder(tmp_path / "saved", fill)
