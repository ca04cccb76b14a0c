"""Raw pixels at a few grey levels: the way to tokens that needs no training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vademecum import files
from vademecum.images.codec import FILE, require_codes, require_pictures
from vademecum.images.reading import grey_values


@dataclass(frozen=True)
class Grey:
    """A token for each pixel: the nearest of ``levels`` evenly spaced grey values; colour is read as its luma."""

    side: tuple[int, int]
    levels: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels={self.levels} was given; expected 2 to 256 grey levels, such as 4.")
        if min(self.side) < 1:
            raise ValueError(f"side={self.side} was given; expected height and width in pixels, such as (28, 28).")

    @property
    def channels(self) -> int:
        """Grey alone."""
        return 1

    @property
    def codes(self) -> int:
        """One for each level."""
        return self.levels

    @property
    def grid(self) -> tuple[int, int]:
        """A token for each pixel."""
        return self.side

    @property
    def shrink(self) -> int:
        """Tokens are as fine as pixels."""
        return 1

    @property
    def key(self) -> str:
        """Names size and levels."""
        return hashlib.sha256(json.dumps(self._described()).encode()).hexdigest()[:16]

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """[N, H, W, 1], or RGB [N, H, W, 3], to levels [N, H * W]."""
        require_pictures(images, self.side, 3 if images.shape[-1:] == (3,) else 1)
        levels = np.rint(np.arange(256) * ((self.levels - 1) / 255)).astype(np.int64)
        found: NDArray[np.int64] = levels[grey_values(images)].reshape(len(images), self.side[0] * self.side[1])
        return found

    def decode(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Levels [N, H * W] to [N, H, W, 1]."""
        require_codes(ids, self.levels, self.side[0] * self.side[1])
        values = np.rint(np.arange(self.levels) * (255 / (self.levels - 1))).astype(np.uint8)
        found: NDArray[np.uint8] = values[ids].reshape(len(ids), *self.side, 1)
        return found

    def save(self, folder: Path) -> None:
        """Write ``codec.json``."""
        files.write_file(folder / FILE, json.dumps(self._described(), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, values: Mapping[str, Any]) -> Grey:
        """From what :meth:`save` wrote; vademecum.files.Damaged where it was not."""
        try:
            return cls(side=(int(values["side"][0]), int(values["side"][1])), levels=int(values["levels"]))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise files.Damaged(f"{folder / FILE} does not describe grey levels ({error!r}).") from error

    def _described(self) -> dict[str, Any]:
        return {"form": "grey", "side": list(self.side), "levels": self.levels}
