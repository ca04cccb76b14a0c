"""What both pages share: what was read, what that can and cannot show, passages, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from vademecum.inspection import tables
from vademecum.inspection.coloured import css
from vademecum.inspection.gather import Windows
from vademecum.inspection.subject import Subject
from vademecum.inspection.tables import Table
from vademecum.pages import page
from vademecum.pages.drawing import Drawing


@dataclass(frozen=True)
class Page:
    """A report: title, opening sentence, sentences that say what was found, sections by id of (heading, HTML)."""

    title: str
    lede: str
    headline: Sequence[str]
    sections: Mapping[str, tuple[str, str]]
    drawings: Sequence[Drawing]
    tables: Sequence[Table]


def write(folder: Path, made: Page) -> Path:
    """Write ``report.html``, ``figures/`` and the CSV files into ``folder``; returns the page's path."""
    tables.write(folder, made.tables)
    lines = "".join(f"<p>{escape(line)}</p>" for line in made.headline)
    links = {id_: heading for id_, (heading, _) in made.sections.items()}
    sections = "".join(
        f'<section id="{id_}"><h2>{escape(heading)}</h2>{html}</section>'
        for id_, (heading, html) in made.sections.items()
    )
    body = (
        f"<style>{css()}</style><header><h1>{escape(made.title)}</h1>"
        f'<p class="lede">{escape(made.lede)}</p><section class="headline">{lines}</section>'
        f"{page.links(links)}</header><main>{sections}</main>"
    )
    return page.write(folder, "report.html", page.document(f"Vademecum: {made.title}", body), made.drawings)


def text_read(subject: Subject, shown: Windows) -> str:
    """Section on the text: tokens by domain, how many of them were held out, and from what."""
    counts = shown.counts()
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{counts[name]:,}</td><td>{shown.heldout[name]:,}</td>"
        f"<td>{100 * shown.heldout[name] / counts[name]:.0f} %</td></tr>"
        for name in shown.domains
    )
    return (
        f"<p>{escape(_held(subject, shown))}</p>"
        f'<div class="scroll" tabindex="0"><table style="width:auto;min-width:22rem"><thead><tr><th>domain</th>'
        f"<th>tokens read</th><th>of held-out "
        f"documents</th><th>share</th></tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="note">Windows of {shown.inputs.shape[1]} tokens, each of one domain. In tokens of the '
        f"model\u2019s own "
        "tokenizer: a domain that it splits into more tokens is read for fewer words.</p>"
    )


def _held(subject: Subject, shown: Windows) -> str:
    counts = shown.counts()
    short = [name for name in shown.domains if shown.heldout[name] < counts[name]]
    if subject.on_domains:
        says = "The run was trained on these seven domains."
        if not short:
            return f"{says} Everything read here is of documents that were held out of its training."
        return (
            f"{says} Held-out documents are read first; in {_list(short)} they were too few, and the rest is text the "
            "model was trained on, for which routing may be surer than for new text."
        )
    trained = (
        f"The run was trained on other text ({subject.trained_on})"
        if subject.trained_on
        else ("What the model was trained on is not known here")
    )
    return (
        f"{trained}. \u201cHeld out\u201d means held out of the seven-domain mixture, so that the model may have seen "
        "any of it where its own text has the same source, and may know nothing of the other domains: parts that do "
        "not tell such domains apart were never asked to."
    )


def files_of(made: Sequence[Table]) -> str:
    """List of the CSV files with links."""
    rows = "".join(
        f'<li><a href="{table.name}.csv">{table.name}.csv</a>: {escape(", ".join(table.columns))}</li>'
        for table in made
    )
    return f"<p>Every number of the figures stands in these files, all layers included.</p><ul>{rows}</ul>"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
