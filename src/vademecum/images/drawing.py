"""Grids of pictures as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vademecum import files

_PAPER = 255


def grid(pictures: NDArray[np.uint8], columns: int, *, scale: int = 2, gap: int = 1) -> Image.Image:
    """Pictures [N, H, W, C] in rows of ``columns``, each ``scale`` times as large, ``gap`` pixels apart."""
    if columns < 1 or scale < 1 or not len(pictures):
        raise ValueError(f"{len(pictures)} pictures in {columns} columns at scale {scale}: each must be at least 1.")
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), _PAPER, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    image = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def labelled(rows: Mapping[str, NDArray[np.uint8]], *, scale: int = 2, gap: int = 1) -> Image.Image:
    """One row of pictures [N, H, W, C] for each name, the name at its left; in colour where any row is."""
    if not rows:
        raise ValueError("No rows of pictures were given: give at least one name with its pictures.")
    sheets = {name: grid(pictures, len(pictures), scale=scale, gap=gap) for name, pictures in rows.items()}
    names = {name: name.encode("utf-8", "replace").decode().replace("\n", " ") for name in sheets}
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    margin = 12 + int(max(measure.textlength(text) for text in names.values()))
    step = max(max(sheet.height for sheet in sheets.values()), 12) + gap * scale
    widest = max(sheet.width for sheet in sheets.values())
    grey = all(sheet.mode == "L" for sheet in sheets.values())
    page = Image.new("L" if grey else "RGB", (margin + widest, step * len(sheets)), "white")
    pen = ImageDraw.Draw(page)
    for number, (name, sheet) in enumerate(sheets.items()):
        page.paste(sheet, (margin, number * step))
        pen.text((4, number * step + max(0, (sheet.height - 11) // 2)), names[name], fill="black")
    return page


def png(image: Image.Image) -> bytes:
    """The image as a PNG file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save(path: Path, image: Image.Image) -> Path:
    """Write a PNG aside, then in its place; returns ``path``."""
    files.write_file(path, png(image))
    return path


def embedded(data: bytes) -> str:
    """A PNG as the ``src`` of a page that fetches nothing."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
