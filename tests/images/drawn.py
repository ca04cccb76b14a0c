"""Small pictures that are drawn, not fetched: white discs and boxes on black, in grey or in colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vademecum.images.pictures import Pictures


def shapes(count: int, *, side: tuple[int, int] = (12, 12), channels: int = 1, seed: int = 0) -> NDArray[np.uint8]:
    """[N, H, W, C]: a disc (even numbers) or a box (odd ones) of some size at some place."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[: side[0], : side[1]]
    pictures = np.zeros((count, *side, channels), dtype=np.uint8)
    for number in range(count):
        middle, size = draw.uniform(0.3, 0.7, 2) * side, draw.uniform(0.15, 0.3) * min(side)
        down, across = abs(rows - middle[0]), abs(columns - middle[1])
        inside = (down**2 + across**2 <= size**2) if number % 2 == 0 else (np.maximum(down, across) <= size)
        pictures[number, inside] = draw.integers(128, 256, channels)
    return pictures


def drawn(
    count: int = 96, *, side: tuple[int, int] = (12, 12), channels: int = 1, key: str = "drawn", held: int = 32
) -> Pictures:
    """A set of such pictures, the last ``held`` of them held out."""
    pictures = shapes(count + held, side=side, channels=channels)
    labels = np.arange(count + held, dtype=np.int64) % 2
    return Pictures(
        name="drawn",
        description="discs and boxes",
        key=key,
        classes=("disc", "box"),
        train=pictures[:count],
        train_labels=labels[:count],
        heldout=pictures[count:],
        heldout_labels=labels[count:],
        skipped={},
    )
