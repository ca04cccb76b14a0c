"""What the study ``editing`` found, as a table, a CSV, curves over the number of edits, and one page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from vademecum import files
from vademecum.compare import stats, tables
from vademecum.pages import page, style
from vademecum.pages.drawing import Drawing
from vademecum.studies.editing_methods import AsItIs
from vademecum.studies.editing_scores import MEASURES

Found = Mapping[tuple[str, int, int], Mapping[str, Any]]
"""Scores by method, number of edits and seed."""


def _of_shares(axis: Any) -> None:
    axis.set_ylim(-0.03, 1.03)


def _of_decades(axis: Any) -> None:
    from matplotlib.ticker import LogLocator

    axis.set_yscale("log")
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))  # all nine of a decade would overlap
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")


def _as_it_is(axis: Any) -> None:
    """Whatever reaches from the lowest to the highest."""


#: What is drawn, and what makes its scale.
DRAWN: Mapping[str, Callable[[Any], None]] = {
    "efficacy": _of_shares,
    "paraphrase": _of_shares,
    "same subject": _of_shares,
    "neighbours": _of_shares,
    "turned": _of_shares,
    "negation": _of_shares,
    "two-hop": _of_shares,
    "perplexity": _of_decades,
    "perplexity, subject": _of_decades,
    "fluency": _as_it_is,
}
COSTS = {"seconds_per_edit": "seconds per edit", "bytes_per_edit": "bytes per edit"}
LIMITS = (
    "Answers are free greedy generation of the edited model, with nothing of the answer given and all edits in place; "
    "an answer counts where it begins with the target (an article before it is let pass).",
    "Facts are lands and cities of GeoNames. First come those of which the host says the truth; where more edits are "
    "asked for than it knows facts, the rest are edits of what it does not know ('known' in the CSV).",
    "'paraphrase' counts ways to ask that the host itself answers rightly before, since an edit can hardly be asked "
    "for where the host does not see what is asked; 'paraphrase, all' counts every one.",
    "One edit is the mean of six, each alone on a fresh model. The fact in the prompt stands before every question "
    "asked about it, neighbours too: a retriever that never errs would give those no fact.",
    "Where more than 500 edits are in place, 500 of them are asked about, evenly drawn from the first to the last.",
    "Methods with settings have those that did best on 24 facts about other subjects than those that are measured, by "
    "the harmonic mean of what holds (efficacy and paraphrases) and what stays (same subject and neighbours).",
    "'the host, not edited' is asked the same: it shows what negation and two-hop come to by chance, and the "
    "perplexity of texts with a subject, which are drawn for each number of edits.",
    "Nothing that is asked is a text that entries learn from; other relations of the same subject are asked for in "
    "words of their own.",
    "Intervals are Student\u2019s t, 95 %, over seeds, which draw facts and targets of one host; many numbers are "
    "looked at and the intervals are not widened for that. Another training of a small host is not among them.",
    "A small host that is trained here has read the sentences that entries are learned from and those that ask for "
    "paraphrases, of every city with its true land, and pieces of the texts whose perplexity is measured.",
)


def estimates(found: Found, method: str, count: int, name: str) -> stats.Estimate | None:
    """A measure over seeds, or None where nothing was asked."""
    values = [one[name] for (m, c, _), one in found.items() if (m, c) == (method, count) and one.get(name) is not None]
    return stats.estimate(values) if values else None


def text(found: Found) -> list[str]:
    """The main numbers, a line each."""
    lines = []
    for count in _counts(found):
        lines += ["", _edits(count)]
        for method in _methods(found):
            said = [
                f"{name} {tables.interval(value, 2)}"
                for name in ("efficacy", "paraphrase", "same subject", "neighbours", "turned", "bitwise")
                if (value := estimates(found, method, count, name)) is not None
            ]
            lines.append(f"  {method:<9} {'  '.join(said)}")
    return lines


def table(found: Found) -> str:
    """Every point as CSV."""
    names = ["known", *COSTS, *MEASURES]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "edits", "seed", *names])
    for (method, count, seed), one in found.items():
        writer.writerow([method, count, seed, *("" if one.get(name) is None else one[name] for name in names)])
    return out.getvalue()


def draw(found: Found, titles: Mapping[str, str]) -> Drawing:
    """Every measure over the number of edits."""
    counts = _counts(found)
    with style.styled():
        figure, axes = style.canvas(columns=5, rows=2, width=14.0, height=5.6, sharex=True)
        looks = style.looks(_methods(found), "prompt")
        for axis, (name, scale) in zip(axes, DRAWN.items(), strict=True):
            for method in _methods(found):
                shown = [(count, e) for count in counts if (e := estimates(found, method, count, name)) is not None]
                if not shown:
                    continue
                look = looks[method]
                xs, means = [count for count, _ in shown], [e.mean for _, e in shown]
                axis.plot(xs, means, color=look.color, marker=look.marker, ls=look.line, ms=4, label=titles[method])
                lows = [min(e.values, default=e.mean) for _, e in shown]
                highs = [max(e.values, default=e.mean) for _, e in shown]
                axis.fill_between(xs, lows, highs, color=look.color, alpha=0.14, lw=0)
            axis.set_title(name)
            axis.set_xscale("log")
            axis.set_xticks(counts, [f"{count:,}" for count in counts])
            axis.minorticks_off()
            scale(axis)
        for axis in axes[-5:]:
            axis.set_xlabel("edits in place")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    caption = (
        "Lines are means over seeds, bands reach from the lowest to the highest. Shares of what was asked; perplexity "
        "of texts without a subject and of others with one; fluency in bits."
    )
    return Drawing("editing", _title(found), caption, figure)


def write(
    found: Found,
    out: Path,
    *,
    settings: Mapping[str, Any],
    titles: Mapping[str, str],
    chosen: Mapping[str, Mapping[str, Any]],
    command: str,
) -> Path:
    """Write ``report.html``, ``editing.csv`` and ``figures/`` into ``out``; returns the page's path."""
    drawing = draw(found, titles)
    limits = "".join(f"<li>{escape(line)}</li>" for line in LIMITS)
    sections = [
        f"<section><h2>{_edits(count)}</h2>{_table(found, count, titles)}</section>" for count in _counts(found)
    ]
    body = (
        f"<header><h1>Editing: facts written into a model</h1><p class='lede'>{escape(_lede(found, settings))}</p>"
        f"</header>"
        f"<main><section>{page.figures([drawing])}</section>{''.join(sections)}"
        f"<section id='method'><h2>How it was measured</h2><ul>{limits}</ul>{page.pairs(MEASURES)}"
        f"{page.pairs({titles[name]: _settings(one) for name, one in chosen.items()})}"
        f"<p><code>{escape(command)}</code></p></section></main>"
    )
    files.write_file(out / "editing.csv", table(found))
    return page.write(out, "report.html", page.document("Editing", body), [drawing])


def rows(found: Found, count: int, titles: Mapping[str, str]) -> list[list[str]]:
    """A table of all measures at one number of edits, its head first."""
    lines = [["measure", *(titles[method] for method in _methods(found))]]
    for name in [*MEASURES, *COSTS]:
        cells = [
            tables.DASH if (e := estimates(found, m, count, name)) is None else _shown(name, e) for m in _methods(found)
        ]
        lines.append([COSTS.get(name, name), *cells])
    return lines


def _shown(name: str, value: stats.Estimate) -> str:
    if name == "bytes_per_edit":
        return tables.count(value.mean, "B")
    return tables.interval(value, 2 if name == "seconds_per_edit" or "perplexity" in name or name == "fluency" else 3)


def _table(found: Found, count: int, titles: Mapping[str, str]) -> str:
    head, *body = rows(found, count, titles)
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in body)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _settings(chosen: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name} {value:.3g}" for name, value in chosen["settings"].items())
    return f"{said}; weighed {chosen['weighed']:.2f} on the facts it was chosen on"


def _title(found: Found) -> str:
    most = _counts(found)[-1]
    said = [
        f"{method} {value.mean:.2f}"
        for method in _methods(found)
        if method != AsItIs.name and (value := estimates(found, method, most, "efficacy")) is not None
    ]
    return f"Answered with the target, {most:,} edits in place: {', '.join(said)}"


def _lede(found: Found, settings: Mapping[str, Any]) -> str:
    seeds = len({seed for _, _, seed in found})
    return (
        f"{settings['model']}: facts about lands and cities, each given another answer of its kind, written in "
        f"{len(_methods(found))} ways; {seeds} seed{'s' if seeds != 1 else ''}."
    )


def _edits(count: int) -> str:
    return f"{count:,} edit{'s' if count > 1 else ''}"


def _counts(found: Found) -> list[int]:
    return sorted({count for _, count, _ in found})


def _methods(found: Found) -> list[str]:
    return list(dict.fromkeys(method for method, _, _ in found))
