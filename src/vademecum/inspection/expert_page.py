"""The page on experts: figures, each expert's typical tokens, coloured text, and what all this does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import torch

from vademecum.inspection import coloured, drawing, expert_figures, experts, page, tables
from vademecum.inspection.coloured import Passage
from vademecum.inspection.experts import Findings, Layer
from vademecum.inspection.gather import Windows
from vademecum.inspection.page import Page
from vademecum.inspection.subject import Subject
from vademecum.inspection.words import Words
from vademecum.pages.page import figures

COLOURED = 3  # layers whose text is shown
KEEP = "vademecum train --keep 20 --checkpoint-every 50"


def make(subject: Subject, shown: Windows, found: Findings, *, seed: int) -> Page:
    """The whole page."""
    words = Words(subject.tokenizer)
    at = coloured.places(found.seen, shown.heldout, seed=seed)
    passages = {
        each.key: coloured.passages(found.seen, at, words, each.first) for each in drawing.shown(found.layers, COLOURED)
    }
    drawings = expert_figures.draw_all(found)
    made = tables.of_experts(found, words, passages)
    return Page(
        title="What the experts learned",
        lede=_lede(subject, shown, found),
        headline=[each.title + "." for each in drawings[:3]],
        sections={
            "read": ("The text that was read", page.text_read(subject, shown)),
            "figures": ("Who takes what", figures(drawings) + _no_curve(found)),
            "typical": ("Each expert\u2019s most typical tokens", _typical(found, words)),
            "text": ("Text, coloured by first expert", _text(found, passages)),
            "limits": ("What this does not show", _limits(found)),
            "files": ("The numbers", page.files_of(made)),
        },
        drawings=drawings,
        tables=made,
    )


def _lede(subject: Subject, shown: Windows, found: Findings) -> str:
    counts = sorted({each.count for each in found.layers})
    kept = sum(each.kept for each in found.layers) / len(found.layers)
    step = f", after step {found.final_step}" if found.final_step else ""
    return (
        f"{len(found.layers)} layers of {' or '.join(map(str, counts))} experts, {kept:.3g} of them to a token, in "
        f"{subject.folder.name}{step}, routing {sum(shown.counts().values()):,} tokens of {len(shown.domains)} domains."
    )


def _no_curve(found: Findings) -> str:
    notes = []
    if not found.saturation:
        notes.append(
            "No saturation curve: only one checkpoint is there. To see how early routing settles, keep several: "
            f"<code>{KEEP}</code>."
        )
    if found.skipped:
        steps = ", ".join(str(step) for step in found.skipped)
        notes.append(f"Damaged checkpoints were left out of the saturation curve: step {steps}.")
    dropped = [each for each in found.layers if each.dropped > 0]
    if dropped:
        worst = max(dropped, key=lambda each: each.dropped)
        notes.append(
            f"Up to {100 * worst.dropped:.1f} % of a token\u2019s places hold no expert "
            f"({drawing.called(worst.key)}): they "
            "were dropped for want of room, or not every token is chosen; those are in no figure but the first."
        )
    return "".join(f'<p class="note">{note}</p>' for note in notes)


def _typical(found: Findings, words: Words) -> str:
    blocks: list[str] = []
    for each in drawing.shown(found.layers):
        lists = {name: experts.typical(one, each.count, top=8) for name, one in each.vocabulary.items()}
        taken = torch.bincount(each.first[each.first >= 0], minlength=each.count)
        rows = "".join(
            f"<tr><td>{i}</td><td>{100 * int(taken[i]) / max(1, int(taken.sum())):.1f} %</td>"
            f"<td>{escape(_favourite(each, found, i))}</td>"
            + "".join(f'<td class="words">{_tokens(lists[name][i], words)}</td>' for name in _LISTED)
            + "</tr>"
            for i in range(each.count)
        )
        heads = "".join(f'<th class="words">{name}</th>' for name in _LISTED)
        blocks.append(
            f"<details{' open' if not blocks else ''}><summary>{escape(drawing.called(each.key))}</summary>"
            f'<div class="scroll" tabindex="0"><table><thead><tr><th>expert</th><th>of first choices</th>'
            f"<th>domain it is used most over "
            f"even</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>"
        )
    return (
        "<p>Ids with ten or more occurrences of which an expert takes the largest share as first choice, with that "
        "share in %. An expert that takes few tokens may be nobody\u2019s favourite and still have a list; "
        f"typical.csv has the counts.</p>{''.join(blocks)}"
    )


_LISTED = ("input id", "predicted next id")


def _favourite(each: Layer, found: Findings, expert: int) -> str:
    ratios = each.domains[expert] / each.even
    most = int(ratios.nan_to_num(0).argmax())
    return f"{found.seen.domains[most]} {float(ratios[most]):.1f}\u00d7"


def _tokens(ones: Sequence[experts.Typical], words: Words) -> str:
    return " ".join(
        f'<span style="white-space:nowrap"><code>{escape(words.show(one.id))}</code>'
        f'<span class="none">\u202f{100 * one.share:.0f}</span></span> '
        for one in ones
    )


def _text(found: Findings, passages: Mapping[str, Sequence[Passage]]) -> str:
    counts = {each.key: each.count for each in found.layers}
    blocks = "".join(
        f"<h3>{escape(drawing.called(key))}</h3>" + coloured.html(each, part="expert", count=counts[key])
        for key, each in passages.items()
    )
    return (
        "<p>The same passage of each domain in a few layers; each token wears the colour of the expert with "
        "the largest weight. Point at a token for its number. Where several tokens make one letter, the "
        "letter has the colour of the last. A colour stands for different experts in different layers.</p>" + blocks
    )


def _limits(found: Findings) -> str:
    points = [
        "Domains differ in words, so that what looks like routing by domain can be routing by token: only the middle "
        "panel of the mutual information takes the token out, and neither it nor the others takes out the context.",
        "One model, one seed, one set of documents. Experts have no order, so that another seed gives other numbers to "
        "other experts; nothing here has an interval over seeds.",
        "Routing says who was asked, not what was answered: an expert that is always asked may add little. "
        "Pull experts out and measure the loss to learn that.",
        "The shuffled baseline treats tokens as independent, which text is not: a difference of a few spreads is no "
        "proof.",
        "Windows begin in the middle of documents, and the first tokens of a window have little context.",
    ]
    if any(each.kept < 1.5 for each in found.layers):
        points.append("With one expert to a token there is no co-activation to show.")
    return "<ul>" + "".join(f"<li>{escape(point)}</li>" for point in points) + "</ul>"
