"""The page on slots: figures, the tokens that open each slot, coloured text, and what all this does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import torch

from vademecum.inspection import coloured, drawing, page, slot_figures, tables
from vademecum.inspection.coloured import Passage
from vademecum.inspection.gather import Windows
from vademecum.inspection.page import Page
from vademecum.inspection.slots import Findings, gate_name
from vademecum.inspection.subject import Subject
from vademecum.inspection.words import Words
from vademecum.pages.page import figures

COLOURED = 3  # layers whose text is shown
_FADE = (0.1, 0.9)  # quantiles of the strongest gate that are shown palest and fullest


def make(subject: Subject, shown: Windows, found: Findings, *, seed: int) -> Page:
    """The whole page."""
    words = Words(subject.tokenizer)
    at = coloured.places(found.seen, shown.heldout, seed=seed)
    passages = {
        each.key: coloured.passages(found.seen, at, words, each.strongest, each.strength)
        for each in drawing.shown(found.layers, COLOURED)
    }
    drawings = slot_figures.draw_all(found)
    made = tables.of_slots(found, words, passages)
    return Page(
        title="What opens the slots",
        lede=_lede(subject, shown, found),
        headline=[each.title + "." for each in drawings],
        sections={
            "read": ("The text that was read", page.text_read(subject, shown)),
            "figures": ("Which domain opens what", figures(drawings) + _one_slot(found)),
            "openers": ("The tokens that open each slot most", _openers(found, words)),
            "text": ("Text, coloured by strongest slot", _text(found, passages)),
            "limits": ("What this does not show", _LIMITS),
            "files": ("The numbers", page.files_of(made)),
        },
        drawings=drawings,
        tables=made,
    )


def _lede(subject: Subject, shown: Windows, found: Findings) -> str:
    slots = sorted({each.slots for each in found.layers})
    heads = sorted({each.heads for each in found.layers})
    step = f", after step {subject.steps[-1]}" if subject.steps else ""
    return (
        f"{len(found.layers)} layers that read {' or '.join(map(str, slots))} slots through the gates of "
        f"{' or '.join(map(str, heads))} heads, in {subject.folder.name}{step}, over "
        f"{sum(shown.counts().values()):,} tokens of {len(shown.domains)} domains."
    )


def _one_slot(found: Findings) -> str:
    if all(each.slots > 1 for each in found.layers):
        return ""
    return (
        '<p class="note">With one slot there is no strongest one: mutual information and shares are left out there.</p>'
    )


def _openers(found: Findings, words: Words) -> str:
    blocks: list[str] = []
    for each in drawing.shown(found.layers):
        rows = "".join(
            f'<tr><td style="white-space:nowrap">head {h}, {gate_name(m)}</td><td class="words">'
            + " ".join(
                f'<span style="white-space:nowrap"><code>{escape(words.show(one.id))}</code>'
                f'<span class="none">\u202f{one.gate:.2f}\u202f({one.count})</span></span> '
                for one in ones
            )
            + "</td></tr>"
            for h, head in enumerate(each.openers)
            for m, ones in enumerate(head)
        )
        blocks.append(
            f"<details{' open' if not blocks else ''}><summary>{escape(drawing.called(each.key))}</summary>"
            f'<div class="scroll" tabindex="0"><table><thead><tr><th>gate</th><th class="words">tokens, mean gate '
            f"(occurrences)</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
        )
    return (
        "<p>Input ids with ten or more occurrences, by their mean gate. The gate is computed from the hidden state and "
        f"not from the id, so that one id opens a slot differently from place to place.</p>{''.join(blocks)}"
    )


def _text(found: Findings, passages: Mapping[str, Sequence[Passage]]) -> str:
    layers = {each.key: each for each in found.layers}
    blocks = []
    for key, each in passages.items():
        low, high = torch.quantile(layers[key].strength[:1_000_000], torch.tensor(_FADE)).tolist()
        blocks.append(
            f"<h3>{escape(drawing.called(key))}</h3>"
            f'<p class="note">Palest: a strongest gate of {low:.2f} or less; fullest: {high:.2f} or more.</p>'
            + coloured.html(each, part="slot", count=layers[key].slots, fade=(low, high))
        )
    return (
        "<p>The same passage of each domain in a few layers; each token wears the colour of the "
        "slot with the largest gate (heads averaged), the fuller the wider that gate is open. Point "
        "at a token for the numbers. Where several tokens make one letter, the letter has the "
        "colour of the last.</p>" + "".join(blocks)
    )


_LIMITS = (
    "<ul><li>A gate says how far a slot is let through, not how much it adds: that also depends on the length of the "
    "row that is read, which differs by token. Slot use in the report of <code>vademecum compare</code> counts "
    "both.</li><li>Every token reads its own row: two tokens with the same open slot read different vectors. A slot "
    "is no topic by itself.</li><li>All slots are mixed; the strongest is often so by a hair, which the opacity of "
    "the text shows and the mutual information does not.</li><li>Domains differ in words, so that what looks like "
    "gating by domain can be gating by token.</li><li>One model, one seed, one set of documents; nothing here has an "
    "interval over seeds.</li></ul>"
)
