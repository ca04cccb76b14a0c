"""What the study ``memory`` found: tables of text, facts and paths with their intervals, a CSV, and one page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum import files
from vademecum.compare import stats, tables
from vademecum.compare.claims import number
from vademecum.compare.matching import BY
from vademecum.compare.results import Row
from vademecum.pages import page, style
from vademecum.pages.drawing import Drawing
from vademecum.studies.memory_arms import DENSE
from vademecum.studies.memory_points import FACTS, PATHS, Point

if TYPE_CHECKING:
    from vademecum.studies.memory import Settings

Found = Mapping[Point, Mapping[str, Any]]
Texts = Mapping[str, Sequence[Row]]

#: What the probes' tables show: a heading, and the value of a point.
RECALL: Mapping[str, Callable[[Mapping[str, Any], int], float | None]] = {
    "share recalled": lambda one, size: one["recalled"] / size,
    "with the memory silent": lambda one, size: one["without"] / size,
    "facts per 1,000 parameters": lambda one, _: 1000 * one["recalled"] / one["params"],
    "slots read, share": lambda one, _: None if one["usage"] is None else one["usage"]["share"],
    "slots that come first, share": lambda one, _: None if one["usage"] is None else one["usage"]["first"],
    "unevenness, nats": lambda one, _: None if one["usage"] is None else one["usage"]["unevenness"],
    "seconds": lambda one, _: one["seconds"],
}
STAR: Mapping[str, Callable[[Mapping[str, Any], int], float | None]] = {
    "edges known": lambda one, _: one["edges"],
    "first step of paths seen": lambda one, _: one["seen"],
    "first step of paths held out": lambda one, _: one["held"],
    "seconds": lambda one, _: one["seconds"],
}
LIMITS = (
    "Small hosts on little text, with rates chosen for the dense host and for MoVE's table: a kind may do better with "
    "its own. Seconds were taken in turn on one machine; where other work ran beside it they say little.",
    "Arms are matched by the width of the host's feed-forward, in steps of 8; what is left over stands in the columns "
    "of FLOPs and parameters. A kind that takes the feed-forward's place in a layer leaves less of it to move.",
    "Facts and paths are trained at the host's own width, so parameters differ: facts per 1,000 parameters say what "
    "each kind makes of its own. A fact counts where every token of the answer and the full stop is the likeliest.",
    "Knock-out silences value memories and what looks rows up; a kind that took a host module's place is not put back.",
    "Intervals are Student\u2019s t, 95 %, over seeds, paired by seed where a difference to dense is shown; many "
    "numbers are looked at and the intervals are not widened for that.",
)


def estimates(found: Found, probe: str, size: int, arm: str, value: Any) -> stats.Estimate | None:
    """A value over seeds; None where there is none."""
    values = [
        got
        for point, one in found.items()
        if (point.probe, point.size, point.arm) == (probe, size, arm) and (got := value(one, size)) is not None
    ]
    return stats.estimate(values) if values else None


def difference(found: Found, probe: str, size: int, arm: str, value: Any) -> stats.Estimate | None:
    """The same less the dense host's, paired by seed."""

    def by_seed(name: str) -> dict[int, float]:
        return {
            point.seed: value(one, size)
            for point, one in found.items()
            if (point.probe, point.size, point.arm) == (probe, size, name)
        }

    return stats.paired(by_seed(arm), by_seed(DENSE))


def text(found: Found, texts: Texts) -> list[str]:
    """The main numbers, a line each."""
    lines = []
    for by, rows in texts.items():
        lines += ["", f"Text, equal {by}", tables.text(rows)]
    for size in _sizes(found, FACTS):
        lines += ["", f"{size:,} facts: share recalled, less dense"]
        lines += _lines(found, FACTS, size, RECALL["share recalled"])
    for size in _sizes(found, PATHS):
        lines += ["", f"{size} paths: first step of those held out, less dense"]
        lines += _lines(found, PATHS, size, STAR["first step of paths held out"])
    return lines


def _lines(found: Found, probe: str, size: int, value: Any) -> list[str]:
    return [
        f"  {arm:<18} {tables.interval(mean, 2)}   {tables.interval(less, 2, signed=True)}"
        for arm in _arms(found)
        if (mean := estimates(found, probe, size, arm, value)) is not None
        for less in (None if arm == DENSE else difference(found, probe, size, arm, value),)
    ]


def table(found: Found) -> str:
    """Every point of the probes as CSV."""
    names = sorted({name for one in found.values() for name in one if name != "usage"})
    usage = ("share", "first", "unevenness")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["probe", "size", "arm", "seed", *names, *usage])
    for point, one in found.items():
        used = one.get("usage") or {}
        values = [one.get(name, "") for name in names]
        writer.writerow(
            [point.probe, point.size, point.arm, point.seed, *values, *(used.get(name, "") for name in usage)]
        )
    return out.getvalue()


def draw(found: Found) -> Drawing:
    """Facts over how many there are, and what is known of the star."""
    arms, sizes, stars = _arms(found), _sizes(found, FACTS), _sizes(found, PATHS)
    with style.styled():
        figure, axes = style.canvas(columns=3, rows=1, width=12.0, height=4.6)
        looks = style.looks(arms, DENSE)
        for axis, name in zip(axes, ("share recalled", "facts per 1,000 parameters"), strict=False):
            for arm in arms:
                shown = [(s, e) for s in sizes if (e := estimates(found, FACTS, s, arm, RECALL[name])) is not None]
                look = looks[arm]
                axis.plot(
                    [s for s, _ in shown],
                    [e.mean for _, e in shown],
                    color=look.color,
                    marker=look.marker,
                    ls=look.line,
                    ms=4,
                    label=arm,
                )
            axis.set_title(name)
            axis.set_xlabel("facts to be known")
            axis.set_xscale("log")
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axis.minorticks_off()
        axis = axes[2]
        for place, arm in enumerate(reversed(arms)):
            for size in stars:
                for name, marker in (("first step of paths held out", "o"), ("edges known", "|")):
                    if (e := estimates(found, PATHS, size, arm, STAR[name])) is not None:
                        axis.plot([e.mean], [place], marker=marker, color=looks[arm].color, ms=7, ls="")
                        axis.plot([min(e.values), max(e.values)], [place, place], color=looks[arm].color, lw=1.2)
        axis.set_yticks(range(len(arms)), list(reversed(arms)))
        axis.set_xlim(-0.03, 1.03)
        axis.set_title("path-star: held-out first step (dot), edges (bar)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6)
    caption = "Means over seeds; on the right lines reach from the lowest seed to the highest."
    return Drawing("probes", "What is known by heart, and what follows from it", caption, figure)


def write(found: Found, texts: Texts, out: Path, *, settings: Settings, command: str) -> Path:
    """Write ``report.html``, ``memory.csv`` and ``figures/`` into ``out``; returns the page's path."""
    drawing = draw(found)
    limits = "".join(f"<li>{escape(line)}</li>" for line in LIMITS)
    notes = page.pairs({arm.name: f"{arm.note} ({', '.join(arm.kinds) or 'none'})" for arm in settings.plan.arms})
    sections = [
        f"<section><h2>Text at equal {by}</h2><p>Equal {escape(BY[by])}. All of it: "
        f'<a href="{by}/report.html">the comparison\u2019s own report</a>.</p>{tables.html(rows, DENSE)}</section>'
        for by, rows in texts.items()
    ]
    sections += [
        f"<section><h2>{size:,} facts</h2>{_table(found, FACTS, size, RECALL)}</section>"
        for size in _sizes(found, FACTS)
    ]
    sections += [
        f"<section><h2>A star of {size} paths</h2><p>Chance of the first step: {1 / size:.3f}.</p>"
        f"{_table(found, PATHS, size, STAR)}</section>"
        for size in _sizes(found, PATHS)
    ]
    body = (
        f"<header><h1>The memory family</h1><p class='lede'>{escape(_lede(settings))}</p></header>"
        f"<main><section>{page.figures([drawing])}</section>{''.join(sections)}"
        f"<section id='method'><h2>How it was measured</h2>{notes}<ul>{limits}</ul>"
        f"<p><code>{escape(command)}</code></p></section></main>"
    )
    files.write_file(out / "memory.csv", table(found))
    return page.write(out, "report.html", page.document("The memory family", body), [drawing])


def _table(found: Found, probe: str, size: int, columns: Mapping[str, Any]) -> str:
    first = next(iter(columns)) if probe == FACTS else "first step of paths held out"
    lines = []
    for arm in _arms(found):
        cells = []
        for name, value in columns.items():
            cells.append(tables.interval(estimates(found, probe, size, arm, value), 1 if name == "seconds" else 3))
            if name == first:
                less = None if arm == DENSE else difference(found, probe, size, arm, value)
                kind = {stats.BETTER: "worse", stats.WORSE: "better"}.get(stats.verdict(less), "none")
                said = tables.interval(less, signed=True)
                cells.append(f'<span class="{kind}">{escape(said)}</span>' if less is not None else tables.DASH)
        mark = ' class="baseline"' if arm == DENSE else ""
        lines.append(f"<tr{mark}><td>{escape(arm)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    names = [heading for name in columns for heading in ([name, "less dense, paired"] if name == first else [name])]
    head = "".join(f"<th>{escape(name)}</th>" for name in ["arm", *names])
    guesses = [
        one["guessed"] / size
        for point, one in found.items()
        if (point.probe, point.size) == (probe, size) and "guessed" in one
    ]
    note = ""
    if guesses:
        share = number(sum(guesses) / len(guesses), 3)
        note = f"<p class='note'>Guessing every relation's commonest answer would give {share}.</p>"
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        f"</div>{note}"
    )


def _lede(settings: Settings) -> str:
    plan, probes = settings.plan, settings.probes
    seeds = len(plan.seeds)
    return (
        f"{len(plan.arms)} arms on one small {plan.host} host (size {plan.size}), {seeds} seed{'s' * (seeds != 1)}: "
        f"{plan.recipe.steps} steps of {plan.recipe.tokens_per_step:,} tokens of {plan.data[0]} at equal compute and "
        f"at equal parameters; facts seen {probes.exposures} times each; and a star of {probes.degree} paths of "
        f"{probes.length} edges."
    )


def _arms(found: Found) -> list[str]:
    return list(dict.fromkeys(point.arm for point in found))


def _sizes(found: Found, probe: str) -> list[int]:
    return sorted({point.size for point in found if point.probe == probe})
