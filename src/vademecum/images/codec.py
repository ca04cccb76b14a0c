"""Pictures to tokens and back: what every codec offers, how well it keeps pictures, and opening one from a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from vademecum import files

FILE = "codec.json"

_FORMS: Mapping[str, tuple[str, str]] = {
    "grey": ("vademecum.images.grey", "Grey"),
    "learned": ("vademecum.images.autoencoder", "AutoEncoder"),
}


class Codec(Protocol):
    """Turns pictures [N, H, W, C] (uint8) into T codes each, in raster order of a grid, and back."""

    @property
    def codes(self) -> int:
        """Size of the code book."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens; T is their product."""
        ...

    @property
    def shrink(self) -> int:
        """Rows, and columns, of pixels to one of tokens; the last may stand for fewer, where a side does not divide."""
        ...

    @property
    def side(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        ...

    @property
    def channels(self) -> int:
        """Of the pictures that come out: 1 (grey) or 3 (RGB)."""
        ...

    @property
    def key(self) -> str:
        """Names its content: equal keys, equal codes for equal pictures."""
        ...

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """[N, H, W, C] to [N, T]; ValueError for pictures of another size."""
        ...

    def decode(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """[N, T] whole numbers to [N, H, W, C]; ValueError for codes outside the code book."""
        ...

    def save(self, folder: Path) -> None:
        """Write ``codec.json``, and weights as safetensors where there are any, into ``folder``."""
        ...


def open_codec(folder: Path) -> Codec:
    """The codec that :meth:`Codec.save` wrote into ``folder``.

    Raises:
        FileNotFoundError: there is none.
        vademecum.files.Damaged: its description or weights are not what was written.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no codec: it has no {FILE}.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        module, name = _FORMS[values["form"]]
    except (ValueError, KeyError, TypeError) as error:
        raise files.Damaged(f"{path} is not a codec of this version ({error}).") from error
    load = cast("Callable[..., Codec]", getattr(import_module(module), name).load)
    return load(folder, values)


def require_pictures(images: NDArray[np.uint8], side: tuple[int, int], channels: int) -> None:
    """Raise ValueError for an array that is not uint8 [N, H, W, C] of this size."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*side, channels):
        raise ValueError(
            f"{images.dtype} of shape {list(images.shape)} was given; this codec takes uint8 of "
            f"[N, {side[0]}, {side[1]}, {channels}]."
        )


def require_codes(ids: NDArray[np.int64], codes: int, tokens: int) -> None:
    """Raise ValueError for an array that is not whole numbers [N, T] from 0 to below ``codes``."""
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"codes of type {ids.dtype} were given; this codec takes whole numbers, such as int64.")
    if ids.ndim != 2 or ids.shape[1] != tokens:
        raise ValueError(f"codes of shape {list(ids.shape)} were given; this codec takes [N, {tokens}].")
    if ids.size and (ids.min() < 0 or ids.max() >= codes):
        raise ValueError(f"codes from {ids.min()} to {ids.max()} were given; this codec has 0 to {codes - 1}.")


@dataclass(frozen=True)
class Reconstruction:
    """How well a codec keeps pictures, in grey values of 0 to 255, and how it uses its codes.

    ``error`` is the mean absolute error, ``rmse`` the root of the mean square, ``psnr`` 20 log10(255 / rmse) in dB.
    ``used`` counts codes that occur, ``perplexity`` is exp of the entropy of their shares: the code book's effective
    size.
    """

    pictures: int
    error: float
    rmse: float
    psnr: float
    codes: int
    used: int
    perplexity: float

    @property
    def share(self) -> float:
        """Share of the code book that occurs."""
        return self.used / self.codes

    def __str__(self) -> str:
        return (
            f"off by {self.error:.1f} of 255 on average (PSNR {self.psnr:.1f} dB) on {self.pictures} pictures; "
            f"{self.used} of {self.codes} codes used ({self.share:.1%}), effectively {self.perplexity:.0f}"
        )


def reconstruction(codec: Codec, images: NDArray[np.uint8]) -> Reconstruction:
    """Encode and decode ``images`` [N, H, W, C] and compare, in grey where the codec knows nothing else.

    Raises:
        ValueError: there are none, or they are not what the codec takes.
    """
    if not len(images):
        raise ValueError("no pictures were given; one or more are needed to tell how well a codec keeps them.")
    ids = codec.encode(images)
    made = codec.decode(ids).astype(np.float64)
    if made.shape[-1] != images.shape[-1]:
        from vademecum.images.reading import grey_values

        images = grey_values(images)
    apart = made - images
    rmse = float(np.sqrt((apart**2).mean()))
    counts = np.bincount(ids.reshape(-1), minlength=codec.codes)
    shares = counts[counts > 0] / ids.size
    return Reconstruction(
        pictures=len(images),
        error=float(np.abs(apart).mean()),
        rmse=rmse,
        psnr=20 * math.log10(255 / rmse) if rmse else math.inf,
        codes=codec.codes,
        used=int((counts > 0).sum()),
        perplexity=float(np.exp(-(shares * np.log(shares)).sum())),
    )
