"""Files that are whole or absent: written aside, synced, hashed, renamed into place, and checked when read.

Memories, checkpoints and the data cache all go through here. A folder is described by its ``manifest.json``
(relative path -> SHA-256 and size), which is how a flipped byte, a truncated file or a missing one is found.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import logging
import math
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "MANIFEST",
    "Damaged",
    "append_line",
    "move_pointer",
    "read_lines",
    "read_pointer",
    "require_writable",
    "sha256",
    "short",
    "verify_folder",
    "write_file",
    "write_folder",
]

MANIFEST = "manifest.json"
_DAY = 86_400.0  # seconds after which a leftover of another machine counts as abandoned
_ROOM = 1_048_576  # bytes; a disk with less is full, whatever it was that did not fit
_FULL = (errno.ENOSPC, errno.EDQUOT)
_log = logging.getLogger(__name__)


class Damaged(ValueError):
    """A file or folder is not what was written: the message names the file and says what is wrong."""


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in pieces (any size)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short(name: str, most: int = 60) -> str:
    """``name`` cut between two letters to at most so many bytes of UTF-8.

    File systems count bytes, mostly up to 255, and a letter takes up to four; what is written aside has more in front
    of it or behind.
    """
    return name.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def require_writable(folder: Path) -> None:
    """Raise OSError where ``folder`` is none, or cannot be made or written into: before hours of work end there."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(f"{folder} cannot be written: {place} is a file; give another folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written: {place} is read-only; give another folder.")


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Write a folder so that afterwards it is either wholly there or, on any failure, as it was before.

    ``fill`` gets an empty folder beside ``target`` and writes into it; its files are then synced, listed with their
    hashes in ``manifest.json``, and the folder is renamed to ``target``. An existing target is replaced, but only
    one that was written here: a folder that holds anything its manifest does not list is never deleted.

    Raises:
        FileExistsError: ``target`` is a file, or a folder with files that are not listed in its manifest.
        OSError: with ``errno.ENOSPC`` where the disk is full, whatever the writer in ``fill`` raised then.
        ValueError: ``fill`` wrote a symbolic link, a special file, or its own top-level ``manifest.json``.
    """
    target = Path(target).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    _recover(target)
    _sweep(target)
    _refuse_foreign(target)
    tmp, asides = _beside(target, "tmp"), list[Path]()
    try:
        tmp.mkdir()
        fill(tmp)
        _seal(tmp)
        _swap(tmp, target, asides)
    except BaseException as error:
        for aside in asides:
            if aside.exists() and not target.exists():
                aside.rename(target)
        if isinstance(error, Exception) and _for_want_of_room(error, target.parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise
    finally:
        for leftover in [tmp, *asides]:
            shutil.rmtree(leftover, ignore_errors=True)
    _sync(target.parent)


def verify_folder(folder: Path) -> dict[str, str]:
    """Check every file of a folder against its manifest and return relative path -> SHA-256.

    A folder that is missing because a replacement was cut short between its two renames is first put back.

    Raises:
        FileNotFoundError: there is no such folder.
        Damaged: no manifest, a manifest that was changed, a file missing, extra, of another size or other bytes, or
            a symbolic link.
    """
    folder = Path(folder)
    _recover(folder.absolute())
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give the folder that holds {MANIFEST}.")
    listed = _read_manifest(folder)
    found = {name for name in _walk(folder) if name != MANIFEST}
    if missing := sorted(listed.keys() - found):
        raise Damaged(f"{folder / missing[0]} is missing although {MANIFEST} lists it.")
    if extra := sorted(found - listed.keys()):
        raise Damaged(f"{folder / extra[0]} is not listed in {MANIFEST}: remove it, or restore the folder.")
    for name, entry in listed.items():
        path, size = folder / name, (folder / name).stat().st_size
        if size != entry["bytes"]:
            raise Damaged(f"{path} has {size} bytes where {entry['bytes']} were written: restore it from a good copy.")
        if sha256(path) != entry["sha256"]:
            raise Damaged(f"{path} has other bytes than were written (SHA-256 differs): restore it from a good copy.")
    return {name: str(entry["sha256"]) for name, entry in listed.items()}


def write_file(path: Path, data: bytes | str) -> None:
    """Write one file (text as UTF-8) so that readers see the old bytes or the new ones, never a part."""
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    tmp = _beside(path, "tmp")
    try:
        with open(tmp, "xb") as file:
            if path.exists():  # who may read it stays as it was, from the first byte on
                os.chmod(tmp, path.stat().st_mode & 0o777)
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)
    _sync(path.parent)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within the block no other process is in such a block for ``folder``; waits for one that is.

    For a moment in which a file is read and written anew. Where the system has no such locks, nothing is held.
    """
    if importlib.util.find_spec("fcntl") is None:  # pragma: no cover
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def move_pointer(link: Path, name: str) -> None:
    """Let the small text file ``link`` (such as ``latest``) name another entry of its folder, atomically."""
    if not name or name != name.strip() or name in {".", ".."} or any(mark in name for mark in "/\\\n\r\0"):
        raise ValueError(f"A pointer names one entry of its own folder, got {name!r}: write a plain name.")
    write_file(link, name + "\n")


def read_pointer(link: Path) -> str | None:
    """Return the name a pointer file holds, or None where there is no such file. Raises Damaged on anything else."""
    try:
        text = Path(link).read_bytes()
    except FileNotFoundError:
        return None
    lines = text.decode(errors="replace").splitlines()
    if len(lines) != 1 or not lines[0].strip() or "\ufffd" in lines[0] or "/" in lines[0]:
        raise Damaged(f"{link} should hold one name on one line, but holds {text[:40]!r}: write the name again.")
    return lines[0]


def append_line(path: Path, obj: Mapping[str, Any]) -> None:
    """Append one JSON object as a line; numbers that are not finite become null, which JSON can hold.

    A line that an earlier kill cut short is ended first, so that it spoils nothing but itself.
    """
    line = json.dumps(_finite(obj), allow_nan=False).encode() + b"\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            line = b"\n" + line
        file.write(line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file in order, without lines that were cut short; [] if it is absent."""
    objects: list[dict[str, Any]] = []
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return objects
    for line in lines:
        with contextlib.suppress(ValueError):
            obj = json.loads(line)
            if isinstance(obj, dict):
                objects.append(obj)
    return objects


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _walk(folder: Path, below: str = "") -> Iterator[str]:
    """Relative POSIX paths of the regular files, sorted; anything that is neither file nor folder is refused."""
    for entry in sorted(os.scandir(folder / below), key=lambda entry: entry.name):
        name = below + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder, name + "/")
        elif entry.is_file(follow_symlinks=False):
            yield name
        else:
            what = "a symbolic link" if entry.is_symlink() else "not a regular file"
            raise Damaged(f"{folder / name} is {what}: only regular files belong in a verified folder.")


def _dump(listed: Mapping[str, Mapping[str, Any]]) -> bytes:
    return (json.dumps(listed, indent=1, sort_keys=True) + "\n").encode()


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise Damaged(f"{folder} has no {MANIFEST}: it was not written by this library, or only in part.")
    text = path.read_bytes()
    try:
        listed = json.loads(text)
        whole = text == _dump(listed) and all(set(entry) == {"sha256", "bytes"} for entry in listed.values())
    except (ValueError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise Damaged(f"{path} is not as it was written: restore it from a good copy.")
    return dict(listed)


def _seal(folder: Path) -> None:
    """Sync every file and folder and write the manifest."""
    listed: dict[str, dict[str, Any]] = {}
    for name in _walk(folder):
        if name == MANIFEST:
            raise ValueError(f"{MANIFEST} is written by write_folder itself: give your own file another name.")
        path = folder / name
        _sync(path)
        listed[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    (folder / MANIFEST).write_bytes(_dump(listed))
    _sync(folder / MANIFEST)
    for root, _, _ in os.walk(folder, topdown=False):
        _sync(Path(root))


def _sync(path: Path) -> None:
    """Push a file's or folder's content to the disk, where the system can do that."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir() or error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


def _for_want_of_room(error: Exception, place: Path) -> bool:
    """Whether a writer failed because the disk is full; some raise errors of their own that have no number."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    if any(f"os error {number}" in str(error) or os.strerror(number) in str(error) for number in _FULL):
        return True
    return not isinstance(error, ValueError | TypeError) and shutil.disk_usage(place).free < _ROOM


def _swap(tmp: Path, target: Path, asides: list[Path]) -> None:
    """Rename tmp to target; what stood there is renamed aside first and listed in ``asides``."""
    for _ in range(100):
        if target.exists():
            asides.append(_beside(target, "old"))  # listed before the rename, so that an interrupt finds it
            with contextlib.suppress(FileNotFoundError):
                target.rename(asides[-1])
        try:
            tmp.rename(target)
        except OSError as error:  # another process put its own target there in between: move that aside too
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            return
    raise OSError(errno.EBUSY, "other processes keep writing the same folder", str(target))


def _refuse_foreign(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file, and a folder was to be written there: give another name.")
    while (looked_at := _inode(target)) is not None and (unlisted := _unlisted(target)):
        # Where another writer put its own folder there in between, files of one were held against the list of another.
        if _inode(target) == looked_at:
            raise FileExistsError(
                f"{target} holds files this library did not write ({unlisted[0]}): give a new or empty folder."
            )


def _inode(folder: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return folder.stat().st_ino
    return None


def _unlisted(folder: Path) -> list[str]:
    names = list(_walk(folder))
    try:
        return sorted(set(names) - {MANIFEST} - _read_manifest(folder).keys()) if names else []
    except Damaged:
        return names


def _beside(target: Path, role: str) -> Path:
    """Name a sibling in work: it tells which process of which machine made it."""
    return target.with_name(f"{target.name}.{role}-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}")


def _machine() -> str:
    return "".join(mark if mark.isalnum() else "_" for mark in socket.gethostname())[:32] or "here"


def _abandoned(target: Path, role: str) -> list[Path]:
    """Siblings made for ``target`` by processes that no longer run, oldest first."""
    prefix, gone = f"{target.name}.{role}-", []
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        fields = path.name.removeprefix(prefix).split("-")
        if not path.name.startswith(prefix) or len(fields) != 3 or not fields[1].isdecimal():
            continue
        try:
            age = time.time() - path.lstat().st_mtime
        except FileNotFoundError:
            continue
        if age > _DAY if fields[0] != _machine() or os.name == "nt" else not _runs(int(fields[1])):
            gone.append((age, path))
    return [path for _, path in sorted(gone, reverse=True)]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _recover(target: Path) -> None:
    """Undo a replacement that was killed after the old folder went aside and before the new one came."""
    if not target.exists() and (asides := _abandoned(target, "old")):
        with contextlib.suppress(OSError):
            asides[-1].rename(target)
            _log.warning("%s was put back: the write that was replacing it had been cut short", target)


def _sweep(target: Path) -> None:
    """Remove what interrupted writes of ``target`` left behind."""
    for path in [*_abandoned(target, "tmp"), *_abandoned(target, "old")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        _log.warning("removed %s, left behind by an interrupted write", path)
