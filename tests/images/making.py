"""Folders of small pictures for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(seed: int, height: int = 12, width: int = 12, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def picture(seed: int, height: int = 12, width: int = 12) -> Image.Image:
    return Image.fromarray(noise(seed, height, width))


def folder(path: Path, classes: Iterable[str] = ("cats", "dogs"), count: int = 6, grey: bool = False) -> Path:
    """``count`` different pictures of 12 x 12 in each class."""
    for number, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for each in range(count):
            made = picture(100 * number + each)
            (made.convert("L") if grey else made).save(path / name / f"{each:02}.png")
    return path
