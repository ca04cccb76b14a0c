"""One self-contained page from sections of HTML: it carries its style and its figures, and fetches nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from vademecum import files
from vademecum.pages import style
from vademecum.pages.drawing import Drawing

LETTERS = 9.5  # of a title to an inch of a figure


def document(title: str, body: str) -> str:
    """The page as text; ``body`` is HTML (a header and a main element)."""
    css = resources.files("vademecum.pages").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{css}</style></head><body>{body}</body></html>\n"
    )


def links(targets: Mapping[str, str]) -> str:
    """A line of links to the page's sections, by the sections' ids."""
    return "<nav>" + " ".join(f'<a href="#{id_}">{escape(name)}</a>' for id_, name in targets.items()) + "</nav>"


def figures(drawings: Sequence[Drawing]) -> str:
    """Drawings as figures with their title above and their caption below."""
    return "".join(
        f'<figure id="{d.name}"><h3>{escape(d.title)}</h3>'
        f'<div class="scroll" tabindex="0">{style.svg(d.figure, d.name)}</div>'
        f"<figcaption>{escape(d.caption)}</figcaption></figure>"
        for d in drawings
    )


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values as a definition list."""
    return "<dl>" + "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in values.items()) + "</dl>"


def write(folder: Path, name: str, page: str, drawings: Sequence[Drawing]) -> Path:
    """Write ``page`` as ``folder/name`` and each drawing as a PNG under ``folder/figures``; returns the page's path.

    A PNG bears its title, wrapped to its own width. Draw the page first: a title becomes part of the figure.
    """
    with style.styled():
        for drawing in drawings:
            title = textwrap.fill(drawing.title, round(drawing.figure.get_figwidth() * LETTERS))
            drawing.figure.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold")
            files.write_file(folder / "figures" / f"{drawing.name}.png", style.png(drawing.figure))
    files.write_file(folder / name, page)
    return folder / name
