"""One picture file as a square of RGB values; a file that cannot be one is refused with the reason in words."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

LARGEST = 50_000_000
"""Pixels above which a picture is not decoded; below, one takes less than a gigabyte."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"})

UNREADABLE = "unreadable or truncated"
HUGE = f"larger than {LARGEST // 1_000_000} million pixels"
OTHER = "not a picture by name"

# Pillow would also open forms that run another program (EPS), whatever the file is called.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


class Refused(Exception):
    """The file gives no picture; ``reason`` says why, in words that are the same for all such files."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def square(path: Path, side: int) -> NDArray[np.uint8]:
    """One picture as [side, side, 3]: the middle of its longer side, its shorter side brought to ``side``.

    It is turned upright as its EXIF says, put on white where it is transparent, and of an animation the first frame is
    taken. Values of 16 bits become their upper 8.

    Raises:
        Refused: the name is no picture's, the file is damaged, or it has more than ``LARGEST`` pixels.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise Refused(OTHER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a folder of thousands, what counts is told at the end
        try:
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > LARGEST:
                    raise Refused(HUGE)
                image.draft("RGB", (2 * side, 2 * side))  # lets a JPEG be decoded at a fraction of its size
                image.load()
                return _fitted(image, side)
        except Refused:
            raise
        except (Image.DecompressionBombError, MemoryError):
            raise Refused(HUGE) from None
        except Exception as error:  # the decoders raise nearly anything when a file is damaged
            raise Refused(UNREADABLE) from error


def _fitted(image: Image.Image, side: int) -> NDArray[np.uint8]:
    with contextlib.suppress(Exception):  # many a good photograph has broken EXIF
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_bytes(np.asarray(image)))
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if (factor := min(image.size) // (2 * side)) > 1:
        image = image.reduce(factor)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    method = Image.Resampling.BOX if min(image.size) >= side else Image.Resampling.BICUBIC
    return np.asarray(ImageOps.fit(image, (side, side), method), dtype=np.uint8)


def _bytes(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Values of more than 8 bits as bytes; the range of 32-bit ones is the smallest usual one that holds them."""
    if values.dtype.itemsize == 2:
        return (values.astype(np.uint16) >> 8).astype(np.uint8)
    found = np.array(values, dtype=np.float32)
    np.nan_to_num(found, copy=False, posinf=0.0, neginf=0.0)
    ranges = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    top = next((top for top in ranges if found.max(initial=0.0) <= top), ranges[-1])
    found *= np.float32(255.0 / top)
    np.clip(found, 0, 255, out=found)
    return found.astype(np.uint8)
