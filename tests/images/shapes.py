"""Bars as a set of pictures of any side, grey or colour, and a judge of them that is trained in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.images import bars
from vademecum.images.judge import Judge, Schooling, schooled
from vademecum.images.pictures import Pictures

SHORT = Schooling(steps=60, batch=32)


def shapes(count: int, seed: int, side: int = 12, channels: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    made, labels = bars.drawn(count, side, seed)
    return np.repeat(made, channels, 3), labels


def pictures(count: int = 150, heldout: int = 60, side: int = 12, channels: int = 1, key: str = "shapes") -> Pictures:
    train, train_labels = shapes(count, 0, side, channels)
    held, held_labels = shapes(heldout, 1, side, channels)
    return Pictures(
        name="shapes",
        description="shapes",
        key=key,
        classes=bars.CLASSES,
        train=train,
        train_labels=train_labels,
        heldout=held,
        heldout_labels=held_labels,
        skipped={},
    )


def judge_of(of: Pictures, cache: Path, schooling: Schooling = SHORT) -> Judge:
    return schooled(of, schooling=schooling, cache=cache, progress=False)
