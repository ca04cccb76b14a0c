"""A set of pictures of one size, each once, split by class into training and held-out ones."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from vademecum import files
from vademecum.data.wheels import Unavailable, cache_folder
from vademecum.images import reading
from vademecum.images.sources import Source, sources

SIDE = 28
COPIES = "copies of another picture"
CLASHES = "copies of a picture of another class"
LONELY = "alone in their class"
_SHARE, _MOST, _LEAST = 0.05, 100, 1
_VERSION = 1  # of what equal keys stand for: raise it when reading of named sets or splitting changes
_FORM = 2  # of the cached form: raise it when what is in the folder, or reading or resizing of users' pictures changes
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
    if not str(source):
        raise ValueError(f"The source is empty: give one of {', '.join(sources())}, or a folder of your own pictures.")
    named = sources().get(source) if isinstance(source, str) else None
    if named is None:
        return _own(_folder(source), side or SIDE, grey, cache, progress)
    if side is not None or grey is False:
        what = f"side={side}" if side is not None else "colour"
        raise ValueError(f"{what} was asked of {named.name}, which has its own form ({named.what}): leave that out.")
    return _named(named, cache)


def _folder(source: str | Path) -> Path:
    path = Path(source).expanduser()
    near = difflib.get_close_matches(str(source), sources(), n=1)
    if near and not path.exists():
        raise FileNotFoundError(
            f"'{source}' is neither a named set of pictures nor a folder (did you mean {near[0]}?): give one of "
            f"{', '.join(sources())}, or a folder with one sub-folder of pictures for each class."
        )
    return path


def _named(source: Source, cache: Path) -> Pictures:
    key = _key(source.name, source.wheel.sha256)
    address = _key("named", _FORM, key)
    if (found := _opened(cache, source.name, address)) is not None:
        return found
    try:
        pictures, labels = source.pictures(cache)
    except Unavailable as problem:
        raise type(problem)(
            f"No {source.name}: {problem} A folder with one sub-folder of pictures for each class needs no network."
        ) from problem
    about = f"{source.name}: {source.origin}, {source.licence}"
    read = reading.Folder(pictures, labels, source.classes)
    return _made(cache, source.name, address, key, about, read)


def _own(path: Path, side: int, grey: bool | None, cache: Path, progress: bool) -> Pictures:
    listed = reading.listing(path)
    name = path.resolve().name.encode("utf-8", "replace").decode() or "pictures"
    # Another Pillow may decode the same file a little differently, so the cache goes by it and the key by the pixels.
    address = _key("own", _FORM, PIL.__version__, reading.content(listed, progress), side, grey)
    if (found := _opened(cache, name, address)) is not None:
        return found
    read = reading.read(listed, side, progress)
    if grey or (grey is None and reading.is_grey(read.pictures)):
        read = replace(read, pictures=reading.grey_values(read.pictures))
    digests = [hashlib.sha256(each.tobytes()).hexdigest() for each in (read.pictures, read.labels)]
    key = _key("own", read.pictures.shape, read.classes, digests)
    return _made(cache, name, address, key, f"{name}: your own pictures", read)


def split(
    pictures: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, int]]:
    """Numbers of the training and of the held-out pictures, and how many were left out, by reason.

    Copies of a picture count once, whatever their labels (the first stays). Of each class about 5 %, at least 1 and at
    most 100 pictures are held out: those with the smallest hashes of pixels and label, so that their order does not
    decide. A class of one picture is left out, since it cannot be on both sides.
    """
    pixels = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
    first: dict[str, int] = {}
    for number, digest in enumerate(pixels):
        first.setdefault(digest, number)
    twins = [number for number, digest in enumerate(pixels) if first[digest] != number]
    skipped = Counter(CLASHES if labels[number] != labels[first[pixels[number]]] else COPIES for number in twins)
    train, heldout = list[int](), list[int]()
    for label in np.unique(labels):
        own = [number for number in first.values() if labels[number] == label]
        if len(own) < 2:
            skipped[LONELY] += len(own)
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


def _made(cache: Path, name: str, address: str, key: str, about: str, read: reading.Folder) -> Pictures:
    pictures, labels, classes = read.pictures, read.labels, read.classes
    train, heldout, more = split(pictures, labels)
    skipped = {**read.skipped, **more}
    left = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
    kept = [label for label in range(len(classes)) if (labels[train] == label).any()]
    gone = ", ".join(name for label, name in enumerate(classes) if label not in kept)
    if len(kept) < 2:
        raise ValueError(
            f"{name} has {len(kept)} {'class' if len(kept) == 1 else 'classes'} with two or more different pictures, "
            f"and 2 are needed; {len(pictures)} pictures were read from {len(classes)} class folders "
            f"(left out: {left or 'nothing'}{f'; classes that fell short: {gone}' if gone else ''}). Give each class "
            "a sub-folder with at least two pictures, better hundreds."
        )
    renumbered = np.full(len(classes), -1, dtype=np.int64)
    renumbered[kept] = np.arange(len(kept))
    height, width, channels = pictures.shape[1:]
    facts = {
        "name": name,
        "key": key,
        "description": f"{about}, {len(train):,} + {len(heldout):,} held-out pictures of {height} x {width}, "
        f"{'grey' if channels == 1 else 'colour'}, {len(kept)} classes"
        + (f"; left out: {left}" if left else "")
        + (f"; classes with fewer than two different pictures, left out: {gone}" if gone else ""),
        "classes": [classes[label] for label in kept],
        "skipped": skipped,
    }

    def fill(folder: Path) -> None:
        for side, chosen in (("train", train), ("heldout", heldout)):
            np.save(folder / f"{side}.npy", pictures[chosen])
            np.save(folder / f"{side}_labels.npy", renumbered[labels[chosen]])
        (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")

    files.write_folder(_place(cache, name, address), fill)
    made = _opened(cache, name, address)
    if made is None:
        raise files.Damaged(f"{_place(cache, name, address)} vanished or changed while it was written: try again.")
    return made


def _opened(cache: Path, name: str, address: str) -> Pictures | None:
    """Open and verify cached pictures; damaged ones are removed, with a warning, so that they are made again."""
    folder = _place(cache, name, address)
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
        key=facts["key"],
        classes=tuple(facts["classes"]),
        train=array("train"),
        train_labels=array("train_labels"),
        heldout=array("heldout"),
        heldout_labels=array("heldout_labels"),
        skipped=facts["skipped"],
    )


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([_VERSION, *parts]).encode()).hexdigest()[:16]


def _place(cache: Path, name: str, address: str) -> Path:
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    return cache / "pictures" / f"{files.short(safe).strip('.-') or 'pictures'}-{address}"
