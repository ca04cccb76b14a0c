"""The page of ``inspect lookup``: a text in colours, gates by layer, what comes next with the memory and without.

Where an overlay is looked at, with and without is of that edit alone; gates are of all memories.
"""

from __future__ import annotations

from html import escape

import torch

from vademecum.inspection import coloured, lookup_edited
from vademecum.inspection.coloured import Passage
from vademecum.inspection.lookup import Looked, Opened
from vademecum.inspection.lookup_figures import gates, most
from vademecum.inspection.page import Page
from vademecum.inspection.tables import Table
from vademecum.inspection.words import Words
from vademecum.pages import page

#: Tokens of the likeliest that are shown, and places at which the memory moved most.
LIKELIEST, MOVED = 8, 5
#: A gate at which a slot or an entry counts as open; a row is added as it is where it is 1.
OPEN = 0.5


def make(found: Looked, words: Words, *, model: str) -> Page:
    """The page."""
    ids = found.ids.tolist()
    drawings = [gates(one, ids, words) for one in found.opened]
    sections = {}
    for one, drawing in zip(found.opened, drawings, strict=True):
        shown = _text(found, one, words) + page.figures([drawing])
        sections[one.key] = (f"{one.key}: which {one.part} spoke where", shown)
    if edited := lookup_edited.section(found, words):
        sections["edited"] = ("Rows that an edit rewrote", edited)
    moved = found.moved()
    sections["next"] = ("What comes next", _next(found, words, len(ids) - 1, "after the whole text"))
    far = [place for place in moved.argsort(descending=True)[:MOVED].tolist() if moved[place] > 1e-6]
    if far:
        shown = "".join(_next(found, words, place, _upto(words, ids, place)) for place in far if place != len(ids) - 1)
        title = f"Where the {found.less} moved most"
        sections["moved"] = (title, shown or "<p>At the end of the text, shown above.</p>")
    return Page(
        title="What was looked up",
        lede=(
            f"{model} reads a text of {len(ids)} tokens. A gate is 0 where nothing is said, 1 where a row is added as "
            "it is, and at most 2; an entry with several conditions has a gate for each, and they are multiplied."
        ),
        headline=_headline(found, words),
        sections=sections,
        drawings=drawings,
        tables=[_table(found, words)],
    )


def _headline(found: Looked, words: Words) -> list[str]:
    moved, last = found.moved(), len(found.ids) - 1
    lines = []
    for one in found.opened:
        strongest = one.strength.amax((0, 1))
        spoke = [label for label, gate in zip(one.labels, strongest.tolist(), strict=True) if gate >= OPEN]
        named = f" ({', '.join(spoke[:6])}{', ...' if len(spoke) > 6 else ''})" if spoke else ""
        lines.append(f"{one.key}: {len(spoke)} of {len(one.labels)} opened to {OPEN:g} or more{named}.")
    if torch.equal(found.with_memory, found.without):
        lines.append(f"The {found.less} changed nothing in this text: it is read as without it, bit for bit.")
    if edited := lookup_edited.line(found, words):
        lines.append(edited)
    before, after = (words.show(int(one[last].argmax())) for one in (found.without, found.with_memory))
    lines.append(
        f"After the text the likeliest token is {after} with the {found.less} and {before} without; what comes next "
        f"moved by {float(moved[last]):.2f} bits there and by {float(moved.mean()):.2f} on average."
    )
    return lines


def _text(found: Looked, one: Opened, words: Words) -> str:
    mean = one.strength.mean(0)
    gate, label = mean.max(-1)
    cut = words.pieces(found.ids.tolist())
    pieces = [(text, int(label[place]) if gate[place] > 1e-6 else -1, float(gate[place])) for text, place in cut]
    notes = lookup_edited.notes(found, one.key, [place for _, place in cut])
    names = "".join(f"<li>{one.part} {number}: {escape(name)}</li>" for number, name in enumerate(one.labels))
    legend = f"<ul>{names}</ul>" if one.part == "entry" else ""
    shown = coloured.html([Passage("text", pieces, notes)], part=one.part, count=len(one.labels), fade=(0.0, one.most))
    note = f"Colour: the {one.part} with the widest gate; fullness: that gate, a mean over layers, {most(one)}."
    if notes:
        note += " Underlined: the token's row was rewritten by an edit."
    return f"{legend}{shown}<p class='note'>{note}</p>"


def _next(found: Looked, words: Words, place: int, where: str) -> str:
    rows = "".join(
        f"<tr><td>{escape(words.show(one))}</td><td>{before:.3f}</td><td>{after:.3f}</td></tr>"
        for one, before, after in found.likeliest(place, LIKELIEST)
    )
    return (
        f'<h3>{escape(where)}</h3><div class="scroll" tabindex="0"><table style="width:auto;min-width:20rem"><thead>'
        f"<tr><th>next token</th><th>without the {found.less}</th><th>with it</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _upto(words: Words, ids: list[int], place: int) -> str:
    text = words.tokenizer.decode(ids[: place + 1], skip_special_tokens=False)
    return f"after \u201c{text[-60:]}\u201d, {place + 1} tokens in"


def _table(found: Looked, words: Words) -> Table:
    moved = found.moved()
    head = ["place", "token", "bits moved", "next without", "next with"]
    rows: list[list[object]] = []
    for place, one in enumerate(found.ids.tolist()):
        says = [words.show(int(torch.argmax(side[place]))) for side in (found.without, found.with_memory)]
        means = [f"{float(o.strength[:, place, n].mean()):.4f}" for o in found.opened for n in range(len(o.labels))]
        rows.append([place, words.show(one), f"{float(moved[place]):.4f}", *says, *means])
    names = [f"{one.key}: {label}" for one in found.opened for label in one.labels]
    return Table("lookup", [*head, *names], rows)
