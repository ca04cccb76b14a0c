"""A user's folder of pictures, one sub-folder a class: what can be read is, what cannot is counted with its reason."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vademecum.images.decoding import HUGE, UNREADABLE, Refused, square

HIDDEN = "hidden"
OUTSIDE = "outside any class folder"
ODD = "no regular file"


@dataclass(frozen=True)
class Listing:
    """Files by class, both in order of name, and how many entries are none of them, by reason."""

    path: Path
    classes: Mapping[str, list[Path]]
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class Folder:
    """What was read: ``pictures`` [N, side, side, 3], ``labels`` [N], and how many files were left out, by reason."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def listing(path: Path) -> Listing:
    """Files by class sub-folder, in whatever depth below it; hidden ones are counted and not looked at.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is a file, or has no sub-folders.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"'{path}' is neither a named set of pictures nor a folder: give animals, mnist, digits, or a folder with "
            "one sub-folder of pictures for each class."
        )
    if not path.is_dir():
        raise ValueError(f"{path} is a file: give a folder with one sub-folder of pictures for each class.")
    inside = sorted(path.iterdir())
    folders = [child for child in inside if child.is_dir() and not _hidden(child.name)]
    beside = Counter(HIDDEN if _hidden(child.name) else OUTSIDE for child in inside if child not in set(folders))
    if not folders:
        what = f"{beside[OUTSIDE]} files and no sub-folders" if beside[OUTSIDE] else "nothing"
        raise ValueError(
            f"{path} holds {what}: put the pictures of each class into a sub-folder with the class's name, such as "
            f"{path / 'cats'} and {path / 'dogs'}."
        )
    classes: dict[str, list[Path]] = {}
    for folder, name in _names(folders).items():
        classes[name], more = _below(folder)
        beside.update(more)
    return Listing(path, classes, dict(beside))


def content(listed: Listing, progress: bool = False) -> str:
    """SHA-256 over classes, names and bytes, in hexadecimal; of a file that cannot be opened, the name alone."""
    digest = hashlib.sha256()
    for name, path in tqdm(
        _every(listed), desc="looking at pictures", unit="picture", leave=False, disable=not progress
    ):
        inner = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    inner.update(block)
        except OSError:
            inner.update(b"cannot be opened")
        digest.update(b"\0".join([os.fsencode(name), os.fsencode(path.relative_to(listed.path)), inner.digest()]))
    digest.update(repr((list(listed.classes), sorted(listed.skipped.items()))).encode())
    return digest.hexdigest()


def read(listed: Listing, side: int, progress: bool = True) -> Folder:
    """Read every file of ``listed``, as squares of ``side`` in RGB; warns where pictures could not be read."""
    every = _every(listed)
    skipped = Counter(listed.skipped)
    bad: list[Path] = []
    pictures, labels = np.empty((len(every), side, side, 3), np.uint8), list[int]()
    numbers = {name: number for number, name in enumerate(listed.classes)}
    for name, path in tqdm(every, desc="reading pictures", unit="picture", leave=False, disable=not progress):
        try:
            pictures[len(labels)] = square(path, side)
        except Refused as problem:
            skipped[problem.reason] += 1
            bad += [path] if problem.reason in (UNREADABLE, HUGE) else []
        else:
            labels.append(numbers[name])
    if bad:
        warnings.warn(
            f"{len(bad)} of the {len(every)} files below {listed.path} are {UNREADABLE} or {HUGE} and were left out, "
            f"the first of them {bad[0].relative_to(listed.path)}.",
            stacklevel=2,
        )
    return Folder(pictures[: len(labels)], np.array(labels, dtype=np.int64), tuple(listed.classes), dict(skipped))


def _every(listed: Listing) -> list[tuple[str, Path]]:
    return [(name, path) for name, paths in listed.classes.items() for path in paths]


def _below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Regular files below a class folder, in order; the rest is counted. Links to folders are not followed."""
    found, beside = list[Path](), Counter[str]()
    for root, folders, names in os.walk(folder, onerror=lambda _: beside.update([UNREADABLE])):
        for name in [*folders, *names]:
            path = Path(root, name)
            if _hidden(name):
                beside[HIDDEN] += 1
            elif path.is_file():
                found.append(path)
            elif name in names or path.is_symlink():
                beside[ODD] += 1
        folders[:] = [name for name in folders if not _hidden(name)]
    return sorted(found), beside


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _names(folders: list[Path]) -> dict[Path, str]:
    """Folders' names as text, whatever their bytes are; where bytes that are no text make two alike, with a number."""
    given = {folder.name for folder in folders}
    names: dict[Path, str] = {}
    for folder in folders:
        plain = name = folder.name.encode("utf-8", "replace").decode()
        number = 1
        while name != folder.name and (name in given or name in names.values()):
            number += 1
            name = f"{plain} ({number})"
        names[folder] = name
    return names


def grey_values(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma (ITU-R BT.601) of RGB pictures [N, H, W, 3] as [N, H, W, 1]; grey pictures come back as they are."""
    if pictures.shape[-1] == 1:
        return pictures
    weights = np.array([0.299, 0.587, 0.114])
    return np.concatenate(
        [np.rint(part @ weights).astype(np.uint8)[..., None] for part in _parts(pictures)] or [pictures[..., :1]]
    )


def is_grey(pictures: NDArray[np.uint8]) -> bool:
    """Whether all three channels are equal everywhere."""
    return all(bool((part[..., :1] == part).all()) for part in _parts(pictures))


def _parts(pictures: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (pictures[start : start + 1024] for start in range(0, len(pictures), 1024))
