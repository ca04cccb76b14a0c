"""Where a converted memory may be written, and where the one to convert is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from vademecum import about, files
from vademecum.about import DESCRIPTION, TENSORS, About

#: All that a folder of a memory holds.
_OWN = frozenset((DESCRIPTION, TENSORS, files.MANIFEST))
#: Where a run, and what it exports, have their memory.
_INSIDE = ("memory", "final/memory")


def source(folder: Path) -> About:
    """What the memory in ``folder`` is, once its files are known to be those that were written.

    Raises:
        FileNotFoundError: there is no such folder.
        files.Damaged: a file is missing, truncated or changed.
        ValueError: it holds no memory; the error names the one of a run.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the folder of a memory that vm.save wrote.")
    if folder.is_dir() and not (folder / DESCRIPTION).is_file():
        inside = next((folder / name for name in _INSIDE if (folder / name / DESCRIPTION).is_file()), None)
        if inside is not None:
            raise ValueError(f"{folder} is not the folder of a memory but holds one; give {inside}.")
    try:
        files.verify_folder(folder)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is no folder; give one that vm.save wrote.") from None
    return about.read(folder)


def require_apart(source: Path, target: Path) -> None:
    """Refuse a target that would take the source, or another folder that was written whole, with it.

    Raises:
        ValueError: ``target`` is the source, or one lies in the other, also by way of links; or it lies in another
            folder that has a manifest, which would no longer be what its manifest says.
    """
    above, same = target.resolve(), _among(source, [target])
    if same or _among(target, source.resolve().parents):
        what = "is" if same else "holds"
        raise ValueError(
            f"{target} {what} {source} and would be replaced by what is made from it; give another folder for the "
            "result."
        )
    if _among(source, above.parents):
        raise ValueError(f"{target} lies in {source}, which must stay as it is; give a folder outside it.")
    for folder in above.parents:
        if _sealed(folder):
            raise ValueError(
                f"{target} lies in {folder}, whose {files.MANIFEST} lists all that belongs there; give a folder "
                "outside it."
            )


def require_replaceable(target: Path) -> None:
    """Refuse to replace anything that is not a memory.

    Raises:
        FileExistsError: ``target`` is a file, or a folder that is neither empty nor a memory and nothing else.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(f"{target} is a file; give a new folder for the result.")
    names = {path.name for path in target.iterdir()}
    foreign = sorted(names - _OWN)
    if foreign or (names and DESCRIPTION not in names):
        raise FileExistsError(
            f"{target} is not a memory ({(foreign or sorted(names))[0]} is in it), and only a memory is replaced; give "
            "a new or empty folder."
        )


def _among(folder: Path, others: Iterable[Path]) -> bool:
    """Whether ``folder`` is one of ``others``, by whatever way each is reached."""
    return folder.exists() and any(other.exists() and other.samefile(folder) for other in others)


def _sealed(folder: Path) -> bool:
    """Whether a folder has a manifest of this library; files of that name are of many programs."""
    try:
        listed = json.loads((folder / files.MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return (
        isinstance(listed, dict)
        and bool(listed)
        and all(isinstance(each, dict) and set(each) == {"sha256", "bytes"} for each in listed.values())
    )
