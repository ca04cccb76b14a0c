"""A small set of pictures that can be learned in seconds: noisy bars, upright, lying or aslant."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from vademecum.images.pictures import Pictures

CLASSES = ("lying", "slanted", "upright")


def drawn(count: int, side: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``count`` pictures [N, side, side, 1] and their labels, no two of them alike."""
    numbers = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pictures = numbers.integers(0, 60, (count, side, side, 1)).astype(np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        at = int(numbers.integers(1, side - 1))
        if label == 0:
            picture[at] = 230
        elif label == 2:
            picture[:, at] = 230
        else:
            for row in range(side):
                picture[row, (row + at) % side] = 230
    return pictures, labels


def pictures(train: int = 240, heldout: int = 45, side: int = 8, seed: int = 0) -> Pictures:
    """The set, split."""
    made, labels = drawn(train + heldout, side, seed)
    return Pictures(
        name="bars",
        description="bars",
        key=hashlib.sha256(made.tobytes()).hexdigest()[:16],
        classes=CLASSES,
        train=made[:train],
        train_labels=labels[:train],
        heldout=made[train:],
        heldout_labels=labels[train:],
        skipped={},
    )


def folder(place: Path, count: int = 90, side: int = 8) -> Path:
    """The same as a user's folder of PNG files."""
    made, labels = drawn(count, side)
    for number, (picture, label) in enumerate(zip(made, labels, strict=True)):
        path = place / CLASSES[label] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0]).save(path)
    return place
