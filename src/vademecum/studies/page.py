"""A study's page: figures over training, the last values with their intervals, and sentences the numbers support."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from vademecum.compare import stats, tables
from vademecum.compare.claims import number
from vademecum.compare.plan import Plan
from vademecum.compare.stats import Estimate
from vademecum.pages import page
from vademecum.pages.drawing import Drawing
from vademecum.studies import figures
from vademecum.studies.groups import Group, Measure
from vademecum.studies.series import Series

LIMITS = (
    "Scale. These are small models on little text; how fast load collapses depends on the learning rate, the number of "
    "experts and how long one trains.",
    "Intervals are Student\u2019s t, 95 %, over few seeds, paired by seed; several measures are tested and the "
    "intervals are not widened for that.",
    "Load is a mean over layers: one collapsed layer among even ones is seen in the CSV, not in the lines.",
)


def write(plan: Plan, found: Series, groups: Sequence[Group], out: Path, *, command: str, comparison: str) -> Path:
    """Write ``report.html`` and ``figures/`` into ``out``; ``comparison`` links to the arms' own report."""
    drawings = {group.name: figures.over_training(found, group, _title(found, group)) for group in groups}
    body = "".join(
        [
            "<header><h1>Collapse, and what prevents it</h1>",
            f'<p class="lede">{escape(_lede(plan))}</p>',
            f'<section class="headline">{_headline(found, groups)}</section>',
            page.links({group.name: group.title for group in groups} | {"method": "How it was measured"}),
            "</header><main>",
            *(_section(found, group, drawings[group.name]) for group in groups),
            _method(plan, found, command, comparison),
            "</main>",
        ]
    )
    every = [drawing for drawing in drawings.values() if drawing is not None]
    return page.write(out, "report.html", page.document("Vademecum: collapse", body), every)


def sentences(found: Series, group: Group) -> list[str]:
    """Per arm, what its last values support against the group's reference; nothing without an interval."""
    said = []
    for arm in group.arms:
        if arm.name == group.reference:
            continue
        shown = [(m, d) for m in group.measures if (d := found.difference(arm.name, group.reference, m.name))]
        if not shown:
            continue
        if all(d.half is None for _, d in shown):
            said.append(f"{arm.name}: {stats.ONE_SEED}.")
            continue
        claims = [_claim(m, d) for m, d in shown if _excludes_zero(d)]
        silent = [m.short for m, d in shown if not _excludes_zero(d)]
        parts = [*claims, f"{stats.NO_DIFFERENCE} in {', '.join(silent)}" if silent else ""]
        said.append(f"{arm.name} against {group.reference}: {'; '.join(part for part in parts if part)}.")
    return said


def _excludes_zero(difference: Estimate) -> bool:
    return difference.half is not None and abs(difference.mean) > difference.half


def _claim(measure: Measure, difference: Estimate) -> str:
    direction = measure.lower if difference.mean < 0 else measure.higher
    return f"{direction} ({measure.short} {tables.interval(difference, signed=True)})"


def _headline(found: Series, groups: Sequence[Group]) -> str:
    lines = [sentence for group in groups for sentence in sentences(found, group)]
    lines += [f"{arm}, seed {seed}: diverged, and is in no number here." for arm, seed in found.diverged]
    fine = "A difference is named only where its paired 95 % interval over seeds excludes zero; \u00b1 is half of it."
    return "".join(f"<p>{escape(line)}</p>" for line in lines) + f'<p class="fine">{fine}</p>'


def _title(found: Series, group: Group) -> str:
    """What is seen: the first measure's last value of every arm."""
    first = group.headline
    last = {arm.name: found.last(arm.name, first.name) for arm in group.arms}
    said = ", ".join(
        f"{name} {number(sum(values.values()) / len(values), 2)}" for name, values in last.items() if values
    )
    return f"{group.title}: {first.short} at the end: {said}"


def _lede(plan: Plan) -> str:
    return (
        f"{len(plan.arms)} arms of one small {plan.host} language model (size {plan.size}), {plan.recipe.steps} steps "
        f"of {plan.recipe.tokens_per_step:,} tokens of {plan.data[0]}, {len(plan.seeds)} "
        f"seed{'s' if len(plan.seeds) != 1 else ''}. At every evaluation the run looked at its experts and slots over "
        f"{plan.recipe.watch_tokens:,} held-out tokens."
    )


def _section(found: Series, group: Group, drawing: Drawing | None) -> str:
    notes = page.pairs({arm.name: f"{arm.note} ({', '.join(arm.kinds)})" for arm in group.arms})
    return (
        f'<section id="{group.name}"><h2>{escape(group.title)}</h2><p>{escape(group.about)}</p>{notes}'
        f"{page.figures([drawing] if drawing else [])}{_table(found, group)}</section>"
    )


def _table(found: Series, group: Group) -> str:
    shown = [m for m in group.measures if any(found.last(arm.name, m.name) for arm in group.arms)]
    head = "".join(f'<th scope="col">{escape(m.short)}</th>' for m in shown)
    rows = []
    for arm in group.arms:
        cells = "".join(f"<td>{_cell(found, group, arm.name, m)}</td>" for m in shown)
        mark = ' class="baseline"' if arm.name == group.reference else ""
        rows.append(f"<tr{mark}><td>{escape(arm.name)}</td>{cells}</tr>")
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">last value</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="note">Mean over seeds and layers; below it the difference to {escape(group.reference)}, paired by '
        "seed, with half its 95 % interval, coloured where that excludes zero.</p>"
    )


def _cell(found: Series, group: Group, arm: str, measure: Measure) -> str:
    last = found.last(arm, measure.name)
    if not last:
        return tables.DASH
    mean = number(sum(last.values()) / len(last))
    difference = None if arm == group.reference else found.difference(arm, group.reference, measure.name)
    if difference is None:
        return mean
    kind = "none"
    if _excludes_zero(difference) and measure.good:
        kind = "better" if (difference.mean > 0) == (measure.good == "high") else "worse"
    return f'{mean}<br><span class="{kind}">{escape(tables.interval(difference, signed=True))}</span>'


def _method(plan: Plan, found: Series, command: str, comparison: str) -> str:
    limits = "".join(f"<li>{escape(item)}</li>" for item in LIMITS)
    recipe = {name: value for name, value in plan.recipe.to_dict().items() if name != "seed"}
    return (
        '<section id="method"><h2>How it was measured</h2>'
        f'<p>The arms were trained by <a href="{escape(comparison)}">a comparison of their own</a>, which has their '
        "costs, speeds and the machine; within a seed all see the same batches and start from the same host weights. "
        "Every number over training, by arm, seed and layer, is in collapse.csv.</p>"
        f"<ul>{limits}</ul><details><summary>All settings</summary>{page.pairs(recipe)}</details>"
        f"<h3>To repeat it</h3><pre>{escape(command)}</pre></section>"
    )
