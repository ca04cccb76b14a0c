"""A user's folder of pictures, one sub-folder a class: what can be read is, what cannot is counted with its reason."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

LARGEST = 50_000_000
"""Pixels above which a picture is not opened: it would need gigabytes."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"})

UNREADABLE = "unreadable or truncated"
HUGE = f"larger than {LARGEST // 1_000_000} million pixels"
OTHER = "no picture by its name"


class _Huge(Exception):
    pass


@dataclass(frozen=True)
class Folder:
    """What was read: ``pictures`` [N, side, side, 3], ``labels`` [N], and how many files were left out, by reason."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    skipped: Mapping[str, int]


def listing(path: Path) -> dict[str, list[Path]]:
    """Files by class sub-folder, both in order of name; hidden ones are not looked at.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no sub-folders, or one class alone.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"'{path}' is neither a named set of pictures nor a folder: give animals, mnist, digits, or a folder with "
            "one sub-folder of pictures for each class."
        )
    if not path.is_dir():
        raise ValueError(f"{path} is a file: give a folder with one sub-folder of pictures for each class.")
    inside = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    folders = [child for child in inside if child.is_dir()]
    if not folders:
        what = f"{len(inside)} files and no sub-folders" if inside else "nothing"
        raise ValueError(
            f"{path} holds {what}: put the pictures of each class into a sub-folder with the class's name, such as "
            f"{path.name}/cats and {path.name}/dogs."
        )
    return {
        folder.name: sorted(
            child
            for child in folder.rglob("*")
            if child.is_file() and not any(part.startswith(".") for part in child.relative_to(folder).parts)
        )
        for folder in folders
    }


def content(listed: Mapping[str, list[Path]], progress: bool = False) -> str:
    """SHA-256 over classes, names and bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, paths in tqdm(
        listed.items(), desc="looking at pictures", unit="class", leave=False, disable=not progress
    ):
        for path in paths:
            digest.update(f"{name}\0{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def read(listed: Mapping[str, list[Path]], side: int, progress: bool = True) -> Folder:
    """Read every file of ``listed``, as squares of ``side`` in RGB."""
    skipped: Counter[str] = Counter()
    pictures, labels = [], []
    every = [(label, path) for label, paths in enumerate(listed.values()) for path in paths]
    for label, path in tqdm(every, desc="reading pictures", unit="picture", leave=False, disable=not progress):
        if path.suffix.lower() not in SUFFIXES:
            skipped[OTHER] += 1
            continue
        try:
            pictures.append(square(path, side))
            labels.append(label)
        except _Huge:
            skipped[HUGE] += 1
        except (OSError, ValueError, SyntaxError, EOFError, UnidentifiedImageError, MemoryError):
            skipped[UNREADABLE] += 1
    shape = (0, side, side, 3)
    return Folder(
        np.stack(pictures) if pictures else np.zeros(shape, np.uint8),
        np.array(labels, dtype=np.int64),
        tuple(listed),
        dict(skipped),
    )


def square(path: Path, side: int) -> NDArray[np.uint8]:
    """One picture as [side, side, 3]: upright, on white where it is transparent, the middle of its longer side."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(path)
        except Image.DecompressionBombError as error:
            raise _Huge from error
        with image:
            if image.width * image.height > LARGEST:
                raise _Huge
            image.draft("RGB", (2 * side, 2 * side))  # lets JPEG be decoded small
            image.load()
            upright = ImageOps.exif_transpose(image)
            flat = _rgb(upright)
            method = Image.Resampling.BOX if min(flat.size) >= side else Image.Resampling.BICUBIC
            fitted = ImageOps.fit(flat, (side, side), method)
            return np.asarray(fitted, dtype=np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, clear)
    return image.convert("RGB")


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
