"""Pictures as rows of tokens, the class before them: what a run on pictures learns from."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vademecum import files
from vademecum.data import order
from vademecum.images.codec import Codec, open_codec
from vademecum.images.pictures import Pictures

FOLDER = "codec"
FILE = "vocabulary.json"

Ids = NDArray[np.int64]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """Token ids: the codec's codes first, then one id for each class, then one for "any class".

    ``drop`` is the share of training pictures whose class was hidden; without it guidance has nothing to lean on.
    """

    codes: int
    classes: tuple[str, ...]
    drop: float

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop={self.drop} was given; expected a share of the pictures, from 0 to below 1.")

    @property
    def size(self) -> int:
        """How many ids there are."""
        return self.codes + len(self.classes) + 1

    @property
    def any(self) -> int:
        """The id that stands where the class is hidden."""
        return self.codes + len(self.classes)

    def of(self, labels: NDArray[np.int64]) -> Ids:
        """Ids of classes by their labels."""
        return np.asarray(labels, dtype=np.int64) + self.codes

    def label(self, name: str) -> int:
        """The label of a class by name; ValueError, with the nearest, for one that the model does not know."""
        if name not in self.classes:
            near = difflib.get_close_matches(name, self.classes, n=1)
            raise ValueError(
                f"the model knows no class '{name}'{f' (did you mean {near[0]}?)' if near else ''}: give one of "
                f"{', '.join(self.classes)}."
            )
        return self.classes.index(name)

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """What :meth:`PictureTokens.keep` wrote into a run's folder; FileNotFoundError where it is no such run."""
        path = folder / FOLDER / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} is not a run on pictures: it has no {FOLDER}/{FILE}; give the folder that 'vademecum image "
                "train' was told as --out."
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(values["codes"], tuple(values["classes"]), values["drop"])
        except (ValueError, KeyError, TypeError) as error:
            raise files.Damaged(f"{path} is not a vocabulary of this version ({error}).") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureTokens:
    """A set of pictures in the tokens of a codec, as a :class:`vademecum.data.Material`.

    A window is one picture: its class, then its T codes in raster order. The class is replaced by "any class" in a
    share of the training windows, a function of seed and step like the order itself. ``train`` and ``heldout`` are
    codes [N, T].
    """

    name: str
    description: str
    key: str
    codec: Codec
    vocabulary: Vocabulary
    train: NDArray[Any]
    train_labels: Ids
    heldout: NDArray[Any]
    heldout_labels: Ids

    @property
    def vocab_size(self) -> int:
        """Ids in the vocabulary."""
        return self.vocabulary.size

    @property
    def length(self) -> int:
        """Tokens of one picture."""
        return int(self.train.shape[1])

    @property
    def dimensions(self) -> int:
        """Values that one picture has: height times width times channels, a byte each."""
        return int(np.prod((*self.codec.side, self.codec.channels)))

    @property
    def kept(self) -> tuple[str, ...]:
        """The codec's folder."""
        return (FOLDER,)

    def windows(self, *, seed: int, step: int, batch: int, length: int) -> Ids:
        """Training pictures ``[batch, 1 + T]`` of one step, each picture once an epoch.

        Raises:
            ValueError: ``length`` is not that of a picture.
        """
        self._require(length)
        chosen = order.rows(len(self.train), seed=seed, step=step, batch=batch)
        hidden = order.chances(seed=seed, step=step, batch=batch) < self.vocabulary.drop
        classes = np.where(hidden, self.vocabulary.any, self.vocabulary.of(self.train_labels[chosen]))
        return np.concatenate([classes[:, None], np.asarray(self.train[chosen], dtype=np.int64)], axis=1)

    def heldout_windows(self, length: int, limit: int | None = None) -> Ids:
        """Held-out pictures ``[n, 1 + T]``, the true class before each; ``limit`` keeps so many, spread evenly."""
        self._require(length)
        count = len(self.heldout)
        chosen = np.arange(count) if limit is None or limit >= count else np.arange(limit) * count // limit
        classes = self.vocabulary.of(self.heldout_labels[chosen])
        return np.concatenate([classes[:, None], np.asarray(self.heldout[chosen], dtype=np.int64)], axis=1)

    def covered_bytes(self, targets: NDArray[np.int64]) -> float:
        """Values of pixels that ``targets`` stand for; each token of a picture stands for an equal part of it."""
        return targets.size * self.dimensions / self.length

    def identity(self) -> Mapping[str, Any]:
        """Key and vocabulary. Name and description tell of the folder and of the other files in it, not of pictures."""
        return {
            "key": self.key,
            "vocab_size": self.vocab_size,
            "classes": list(self.vocabulary.classes),
            "drop": self.vocabulary.drop,
        }

    def sizes(self) -> Mapping[str, float]:
        """Tokens and bytes (values of pixels) on both sides."""
        return {
            "heldout_bytes": len(self.heldout) * self.dimensions,
            "heldout_tokens": self.heldout.size,
            "train_tokens": self.train.size,
            "bytes_per_token": self.dimensions / self.length,
        }

    def keep(self, folder: Path) -> None:
        """Write ``codec/``: the codec and the vocabulary."""
        self.export(folder)

    def export(self, folder: Path) -> None:
        """Write ``codec/`` beside a model."""

        def fill(aside: Path) -> None:
            self.codec.save(aside)
            (aside / FILE).write_text(json.dumps(asdict(self.vocabulary), indent=1) + "\n", encoding="utf-8")

        files.write_folder(folder / FOLDER, fill)

    def _require(self, length: int) -> None:
        if length != self.length:
            raise ValueError(
                f"length={length} was given, and a picture of this codec has {self.length} tokens; write "
                f"length={self.length}."
            )


def tokenized(pictures: Pictures, codec: Codec, *, drop: float, cache: Path) -> PictureTokens:
    """``pictures`` in the tokens of ``codec``; encoded once, then cached."""
    key = hashlib.sha256(json.dumps([pictures.key, codec.key]).encode()).hexdigest()[:16]
    folder = cache / "tokens" / f"{files.short(pictures.name)}-{key}"
    dtype = np.uint16 if codec.codes <= 2**16 else np.uint32

    def fill(aside: Path) -> None:
        for side in ("train", "heldout"):
            np.save(aside / f"{side}.npy", codec.encode(getattr(pictures, side)).astype(dtype))

    try:
        files.verify_folder(folder)
    except FileNotFoundError:
        files.write_folder(folder, fill)
    except files.Damaged as problem:
        _log.warning("%s The cached tokens are made again.", problem)
        shutil.rmtree(folder)
        files.write_folder(folder, fill)
    train, heldout = (
        np.load(folder / f"{side}.npy", mmap_mode="r", allow_pickle=False) for side in ("train", "heldout")
    )
    rows, columns = codec.grid
    return PictureTokens(
        name=pictures.name,
        description=f"{pictures.description}; {rows} x {columns} tokens of {codec.codes} codes",
        key=key,
        codec=codec,
        vocabulary=Vocabulary(codec.codes, pictures.classes, drop),
        train=train,
        train_labels=pictures.train_labels,
        heldout=heldout,
        heldout_labels=pictures.heldout_labels,
    )


def opened(run: Path) -> tuple[Codec, Vocabulary]:
    """Codec and vocabulary of a run on pictures (or of its ``final`` folder).

    Raises:
        FileNotFoundError: it is no such run.
        files.Damaged: the codec's files are not what was written.
    """
    with contextlib.suppress(FileNotFoundError):  # reading the vocabulary says what such a folder is not
        files.verify_folder(run / FOLDER)
    vocabulary = Vocabulary.read(run)
    return open_codec(run / FOLDER), vocabulary


def balanced(count: int, classes: Sequence[str]) -> Ids:
    """Labels of ``count`` pictures, the classes in turn: [count]."""
    return np.arange(count, dtype=np.int64) % len(classes)
