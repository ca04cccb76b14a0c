"""The figures of ``inspect lookup``: gates by layer and token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vademecum.inspection.drawing import heat
from vademecum.inspection.lookup import Opened
from vademecum.inspection.words import Words
from vademecum.pages import style
from vademecum.pages.drawing import Drawing

#: Tokens of a heat map; a longer text shows its last ones.
SHOWN = 60
#: Entries that have a heat map of their own, those with the widest gates, and letters of what they are called.
ENTRIES, LETTERS = 8, 90

_Panel = tuple[str, NDArray[np.float64]]


def gates(one: Opened, ids: list[int], words: Words) -> Drawing:
    """A heat map for each entry that speaks, or one of the widest gate of any slot."""
    start = max(0, len(ids) - SHOWN)
    columns, rows = [words.show(number) for number in ids[start:]], list(map(str, one.layers))
    panels = _entries(one, start) if one.part == "entry" else _widest(one, start)
    with style.styled():
        wide, high = max(6.0, 1.5 + 0.24 * len(columns)), max(1.0, 0.4 + 0.14 * len(rows))
        figure, axes = style.canvas(width=wide, height=1.2 + high * len(panels), rows=len(panels), sharex=True)
        for axis, (title, values) in zip(axes, panels, strict=True):
            image = heat(axis, values, low=0.0, high=one.most, columns=columns, rows=rows, rotate=True)
            axis.set_ylabel("layer")
            axis.set_title(title, fontsize=8.5)
        figure.colorbar(image, ax=axes, label=f"gate, of at most {one.most:g}", aspect=max(20.0, 8.0 * len(panels)))
    return Drawing(f"gates-{one.key}", _title(one), _caption(one, len(panels), cut=bool(start)), figure)


def most(one: Opened) -> str:
    """How wide a gate can be, in words."""
    each = f" (2 for each of {one.conditions} conditions)" if one.conditions > 1 else ""
    return f"of at most {one.most:g}{each}"


def _widest(one: Opened, start: int) -> list[_Panel]:
    return [("", one.strength.amax(-1)[:, start:].numpy().astype(np.float64))]


def _entries(one: Opened, start: int) -> list[_Panel]:
    """Each entry's gates; where it does not speak, its subject not being named yet, nothing is drawn."""
    found = []
    for number in one.strength.amax((0, 1)).argsort(descending=True, stable=True)[:ENTRIES].tolist():
        label = one.labels[number]
        called = label if len(label) <= LETTERS else f"{label[:LETTERS]}..."
        values = one.strength[:, start:, number].numpy().astype(np.float64)
        found.append((f"entry {number}: {called}", np.where(values > 0, values, np.nan)))
    return found


def _title(one: Opened) -> str:
    return f"{one.key}: gates of each entry" if one.part == "entry" else f"{one.key}: widest gate of any {one.part}"


def _caption(one: Opened, shown: int, *, cut: bool) -> str:
    lines = [f"By layer and token; gates are {most(one)}."]
    if one.part == "entry":
        lines.append("Widest first; empty where an entry does not speak.")
        if left := len(one.labels) - shown:
            lines.append(f"{left} more {'speaks' if left == 1 else 'speak'} with narrower gates and are left out.")
    if cut:
        lines.append(f"The last {SHOWN} tokens.")
    return " ".join(lines)
