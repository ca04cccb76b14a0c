"""Text whose tokens wear the colour of the expert or slot that took them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources

import torch
from torch import Tensor

from vademecum.inspection.gather import Seen
from vademecum.inspection.words import RETURN, Words

LONGEST = 110  # tokens of a passage
COLOURS = 16  # beyond so many, colours are not told apart: the others stay grey


def css() -> str:
    """Style of the passages, for the page's head."""
    return resources.files("vademecum.inspection").joinpath("coloured.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Passage:
    """A passage of one domain: ``pieces`` of ``(text, number of expert or slot, strength)``, -1 for no expert.

    ``notes`` say more of some pieces, by their number; these are underlined.
    """

    domain: str
    pieces: Sequence[tuple[str, int, float]]
    notes: Mapping[int, str] = field(default_factory=dict)


def places(seen: Seen, heldout: Mapping[str, int], *, seed: int) -> dict[str, Tensor]:
    """By domain, the places ``[n]`` of one passage: a window drawn from the held-out ones where there is one."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for i, domain in enumerate(seen.domains):
        here = (seen.domain == i).nonzero().squeeze(1)
        windows = torch.unique(seen.window[here])
        length = len(here) // len(windows)
        whole = max(1, heldout[domain] // length)
        chosen = windows[int(torch.randint(whole, (1,), generator=generator))]
        found[domain] = here[seen.window[here] == chosen][:LONGEST]
    return found


def passages(
    seen: Seen, at: Mapping[str, Tensor], words: Words, labels: Tensor, strength: Tensor | None = None
) -> list[Passage]:
    """The passages at the given places, each piece with its token's label ``[N]`` and strength ``[N]`` (1 if None)."""
    found = []
    for domain, here in at.items():
        pieces = [
            (text, int(labels[here[i]]), 1.0 if strength is None else float(strength[here[i]]))
            for text, i in words.pieces(seen.ids[here].tolist())
        ]
        found.append(Passage(domain, pieces))
    return found


def html(each: Sequence[Passage], *, part: str, count: int, fade: tuple[float, float] | None = None) -> str:
    """Legend and passages.

    Args:
        each: the passages of one layer.
        part: "expert" or "slot".
        count: how many there are.
        fade: strengths that are shown as the palest and the fullest colour; all are full where None.
    """
    common = Counter(label for passage in each for _, label, _ in passage.pieces if label >= 0)
    coloured = sorted(label for label, _ in common.most_common(COLOURS))
    hues = {label: _hue(i, len(coloured)) for i, label in enumerate(coloured)}
    legend = f"{part} " + "".join(f'<span class="t" style="{hue}">{label}</span>' for label, hue in hues.items())
    if len(common) > len(hues) or any(label < 0 for passage in each for _, label, _ in passage.pieces):
        legend += f'<span class="t grey">another or no {part}</span>'
    legend += f' <span class="none">{len(common)} of {count} appear</span>'
    rows = "".join(
        f"<b>{escape(passage.domain)}</b><div>{''.join(_spans(passage, hues, part, fade))}</div>" for passage in each
    )
    return f'<p class="legend">{legend}</p><div class="coloured">{rows}</div>'


def _folded(pieces: Sequence[tuple[str, int, float]]) -> Iterator[tuple[str, int, float]]:
    """Pieces with a sign for each line end, and only the first of several in a row a real one."""
    fresh = True
    for text, label, strength in pieces:
        shown = ""
        for letter in text:
            shown += (RETURN if fresh else RETURN + "\n") if letter == "\n" else letter
            fresh = letter == "\n" or (fresh and letter.isspace())
        yield shown, label, strength


def _spans(passage: Passage, hues: Mapping[int, str], part: str, fade: tuple[float, float] | None) -> Iterator[str]:
    for number, piece in enumerate(_folded(passage.pieces)):
        yield _span(piece, hues, part, fade, passage.notes.get(number, ""))


def _hue(number: int, count: int) -> str:
    """Hues spread evenly; every other one is darker, so that neighbours differ in more than hue."""
    return f"--h:{round(360 * number / count)};--d:{0.09 if number % 2 else 0}"


def _span(
    piece: tuple[str, int, float], hues: Mapping[int, str], part: str, fade: tuple[float, float] | None, note: str
) -> str:
    text, label, strength = piece
    kind, look, title = "t", f' style="{hues.get(label, "")}"', f"{part} {label}" if label >= 0 else f"no {part}"
    if label not in hues:
        kind, look = "t grey", ""
    elif fade is not None:
        low, high = fade
        share = min(1.0, max(0.0, (strength - low) / (high - low))) if high > low else 1.0
        look, title = f' style="{hues[label]};--a:{0.12 + 0.88 * share:.2f}"', f"{title}, gate {strength:.2f}"
    if note:
        kind, title = f"{kind} noted", f"{title}; {note}"
    return f'<span class="{kind}"{look} title="{escape(title)}">{escape(text)}</span>'
