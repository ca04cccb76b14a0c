"""A set of pictures of one size, each once, split by class into training and held-out ones."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vademecum import files
from vademecum.data.wheels import cache_folder
from vademecum.images import reading
from vademecum.images.sources import Source, sources

SIDE = 28
COPIES = "copies of another picture"
LONELY = "the only picture of their class"
_SHARE, _MOST, _LEAST = 0.05, 100, 1
_VERSION = 1  # of the cached form: raise it when reading, resizing or splitting changes
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Pictures ready for training.

    ``train`` is [N, H, W, C] and ``heldout`` [M, H, W, C], uint8, C 1 (grey) or 3 (RGB); labels are [N] and [M] and
    count in the order of ``classes``. No picture is on both sides. ``skipped`` counts what was left out, by reason in
    words. ``key`` names the content: equal keys, equal pixels and split.
    """

    name: str
    description: str
    key: str
    classes: tuple[str, ...]
    train: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    heldout: NDArray[np.uint8]
    heldout_labels: NDArray[np.int64]
    skipped: Mapping[str, int]

    @property
    def side(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.train.shape[1]), int(self.train.shape[2])

    @property
    def channels(self) -> int:
        """1 or 3."""
        return int(self.train.shape[3])

    def __repr__(self) -> str:
        return f"Pictures({self.description})"


def prepare(
    source: str | Path,
    *,
    side: int | None = None,
    grey: bool | None = None,
    cache: Path | None = None,
    progress: bool = True,
) -> Pictures:
    """Fetch or read pictures, keep each once, split them; or open them from the cache.

    Args:
        source: "animals", "mnist", "digits", or a folder with one sub-folder of pictures for each class.
        side: height and width to which the pictures of a folder are brought; 28 where None. Named sets have their own.
        grey: whether the pictures of a folder become grey; where None, if all are.
        cache: folder of prepared data; the user's cache where None.
        progress: show a bar while a folder is read.

    Raises:
        FileNotFoundError, ValueError: no such source, a folder without classes or with too few pictures.
        Unavailable: a named set cannot be fetched here.
    """
    cache = Path(cache) if cache is not None else cache_folder()
    if side is not None and not 4 <= side <= 512:
        raise ValueError(f"side={side} was given; expected 4 to 512, such as 28.")
    named = sources().get(str(source))
    if named is None:
        return _own(Path(source).expanduser(), side or SIDE, grey, cache, progress)
    if side is not None or grey is False:
        what = f"side={side}" if side is not None else "colour"
        raise ValueError(f"{what} was asked of {named.name}, which has its own form ({named.what}): leave that out.")
    key = _key(named.name, named.wheel.sha256)
    return _opened(cache, named.name, key) or _named(named, key, cache)


def _named(source: Source, key: str, cache: Path) -> Pictures:
    pictures, labels = source.pictures(cache)
    about = f"{source.name}: {source.origin}, {source.licence}"
    return _made(cache, source.name, key, about, pictures, labels, source.classes, {})


def _own(path: Path, side: int, grey: bool | None, cache: Path, progress: bool) -> Pictures:
    listed = reading.listing(path)
    name = path.resolve().name or "pictures"
    key = _key("own", reading.content(listed, progress), side, grey)
    if (found := _opened(cache, name, key)) is not None:
        return found
    got = reading.read(listed, side, progress)
    pictures = got.pictures
    if grey or (grey is None and reading.is_grey(pictures)):
        pictures = reading.grey_values(pictures)
    return _made(cache, name, key, f"{name}: your own pictures", pictures, got.labels, got.classes, got.skipped)


def split(
    pictures: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, int]]:
    """Numbers of the training and of the held-out pictures, and how many were left out, by reason.

    Copies of a picture count once, whatever their labels (the first stays). Of each class about 5 %, at least 1 and at
    most 100 pictures are held out: those with the smallest hashes of pixels and label, so that neither order nor the
    other classes decide. A class of one picture is left out, since it cannot be on both sides.
    """
    pixels = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
    first: dict[str, int] = {}
    for number, digest in enumerate(pixels):
        first.setdefault(digest, number)
    skipped = {COPIES: len(pixels) - len(first)}
    train, heldout = [], []
    for label in np.unique(labels):
        own = [number for number in first.values() if labels[number] == label]
        if len(own) < 2:
            skipped[LONELY] = skipped.get(LONELY, 0) + len(own)
            continue
        ranked = sorted(own, key=lambda number: hashlib.sha256(f"{pixels[number]} {labels[number]}".encode()).digest())
        held = min(_MOST, max(_LEAST, round(_SHARE * len(own))))
        heldout += ranked[:held]
        train += ranked[held:]
    return (
        np.array(sorted(train), np.int64),
        np.array(sorted(heldout), np.int64),
        {k: n for k, n in skipped.items() if n},
    )


def _made(
    cache: Path,
    name: str,
    key: str,
    about: str,
    pictures: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    skipped: Mapping[str, int],
) -> Pictures:
    train, heldout, more = split(pictures, labels)
    skipped = {**skipped, **more}
    kept = [label for label in range(len(classes)) if (labels[train] == label).any()]
    if len(kept) < 2:
        left = "; ".join(f"{count} {reason}" for reason, count in skipped.items()) or "nothing was left out"
        raise ValueError(
            f"{name} has {len(kept)} classes with two or more different pictures, and 2 are needed; {len(pictures)} "
            f"pictures were read from {len(classes)} class folders ({left}). Give each class a sub-folder with at "
            "least two pictures, better hundreds."
        )
    renumbered = np.full(len(classes), -1, dtype=np.int64)
    renumbered[kept] = np.arange(len(kept))
    said = f"; left out: {', '.join(f'{count} {reason}' for reason, count in skipped.items())}" if skipped else ""
    height, width, channels = pictures.shape[1:]
    facts = {
        "name": name,
        "description": f"{about}, {len(train):,} + {len(heldout):,} held-out pictures of {height} x {width}, "
        f"{'grey' if channels == 1 else 'colour'}, {len(kept)} classes{said}",
        "classes": [classes[label] for label in kept],
        "skipped": skipped,
    }

    def fill(folder: Path) -> None:
        for side, chosen in (("train", train), ("heldout", heldout)):
            np.save(folder / f"{side}.npy", pictures[chosen])
            np.save(folder / f"{side}_labels.npy", renumbered[labels[chosen]])
        (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")

    files.write_folder(_place(cache, name, key), fill)
    made = _opened(cache, name, key)
    if made is None:
        raise files.Damaged(f"{_place(cache, name, key)} vanished or changed while it was written: try again.")
    return made


def _opened(cache: Path, name: str, key: str) -> Pictures | None:
    """Open and verify cached pictures; damaged ones are removed, with a warning, so that they are made again."""
    folder = _place(cache, name, key)
    try:
        files.verify_folder(folder)
    except FileNotFoundError:
        return None
    except files.Damaged as problem:
        _log.warning("%s The cached pictures are made again.", problem)
        shutil.rmtree(folder)
        return None
    facts = json.loads((folder / "facts.json").read_text("utf-8"))

    def array(file: str) -> NDArray[Any]:
        loaded: NDArray[Any] = np.load(folder / f"{file}.npy", allow_pickle=False)
        return loaded

    return Pictures(
        name=facts["name"],
        description=facts["description"],
        key=key,
        classes=tuple(facts["classes"]),
        train=array("train"),
        train_labels=array("train_labels"),
        heldout=array("heldout"),
        heldout_labels=array("heldout_labels"),
        skipped=facts["skipped"],
    )


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([_VERSION, *parts]).encode()).hexdigest()[:16]


def _place(cache: Path, name: str, key: str) -> Path:
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:60].strip(".-")
    return cache / "pictures" / f"{safe or 'pictures'}-{key}"
