"""A small set of pictures with three classes that are easy to tell apart, and a judge of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vademecum.images.judge import Judge, Schooling, schooled
from vademecum.images.pictures import Pictures

CLASSES = ("lying", "standing", "blot")
SHORT = Schooling(steps=60, batch=32)


def shapes(count: int, seed: int, side: int = 12, channels: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``count`` noisy pictures: a bar that lies, a bar that stands, a square; each somewhere else."""
    generator = np.random.default_rng(seed)
    made = generator.integers(0, 70, (count, side, side, channels))
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    for picture, label in zip(made, labels, strict=True):
        height, width = ((2, side - 4), (side - 4, 2), (4, 4))[label]
        top, left = generator.integers(1, side - height), generator.integers(1, side - width)
        picture[top : top + height, left : left + width] += 150
    return made.astype(np.uint8), labels


def pictures(
    count: int = 150, heldout: int = 60, side: int = 12, channels: int = 1, key: str = "shapes", seed: int = 0
) -> Pictures:
    train, train_labels = shapes(count, 2 * seed, side, channels)
    held, held_labels = shapes(heldout, 2 * seed + 1, side, channels)
    return Pictures(
        name="shapes",
        description="shapes",
        key=key,
        classes=CLASSES,
        train=train,
        train_labels=train_labels,
        heldout=held,
        heldout_labels=held_labels,
        skipped={},
    )


def judge_of(of: Pictures, cache: Path, schooling: Schooling = SHORT) -> Judge:
    return schooled(of, schooling=schooling, cache=cache, progress=False)
