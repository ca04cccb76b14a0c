"""One self-contained page: what was found, how it was measured, what it does not show. It fetches nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vademecum.compare import asked, claims, evaluated, figures, media, replies, results, tables
from vademecum.compare.drawing import rows_on
from vademecum.compare.media import Medium
from vademecum.compare.names import slug
from vademecum.compare.results import Row
from vademecum.memory.base import Role
from vademecum.pages import page
from vademecum.pages.drawing import Drawing
from vademecum.roles import LR_RATIO
from vademecum.training import Recipe

Results = Mapping[str, Any]


def write(folder: Path, found: Results | None = None) -> Path:
    """Write ``figures/`` and ``report.html`` from ``folder``'s results (or ``found``); return the page's path."""
    found = results.read(folder) if found is None else found
    drawings = {data: figures.draw_all(found, data) for data in _sources(found)}
    answers = {data: asked.draw_all(found, data) for data in _sources(found)}
    shown = medium_of(found).drawings(found)
    every = [drawing for each in (*answers.values(), *drawings.values(), shown) for drawing in each]
    return page.write(folder, "report.html", html(found, drawings, answers, shown), every)


def html(
    found: Results,
    drawings: Mapping[str, Sequence[Drawing]],
    answers: Mapping[str, Sequence[Drawing]] | None = None,
    shown: Sequence[Drawing] = (),
) -> str:
    """The page as text; ``answers`` are the drawings of the questions, ``shown`` those of the samples."""
    sources = _sources(found)
    words = medium_of(found).words
    links = {"asked": "What was asked"} if found.get("answers") else {}
    links |= {f"on-{slug(data)}": f"Results on {data}" for data in sources}
    links |= {"texts": words.shown, "method": "How it was measured", "limits": "What this does not show"}
    body = "".join(
        [
            "<header><h1>Memory and experts, compared</h1>",
            f'<p class="lede">{escape(_lede(found))}</p>',
            _headline(found),
            f"{page.links(links)}</header><main>",
            replies.section(found, answers or {}),
            *(_source(found, data, drawings.get(data, ())) for data in sources),
            medium_of(found).section(found, shown),
            _method(found),
            _limits(found),
            "</main>",
        ]
    )
    return page.document(f"Vademecum: {', '.join(found['arms'])}", body)


def medium_of(found: Results) -> Medium:
    """The medium that results are of; those of earlier versions are of text."""
    return media.from_dict(found["plan"].get("medium", {"form": "text"}))


def _sources(found: Results) -> list[str]:
    return list(dict.fromkeys(row.data for row in found["rows"]))


def _lede(found: Results) -> str:
    plan = found["plan"]
    seeds, arms = len(plan["seeds"]), len(found["arms"])
    return (
        f"{arms} arms of one small {plan['host']} {medium_of(found).words.model} (size {plan['size']}), "
        f"trained side by side on {', '.join(_sources(found))} with {seeds} seed{'s' if seeds != 1 else ''}: "
        f"{found['match']}."
        f"{''.join(' ' + note for note in found.get('substituted', ()))}"
    )


def _headline(found: Results) -> str:
    sentences = claims.headline(found["rows"], found["plan"]["baseline"])
    sentences += [f"{each['arm']}, {_where(each)}." for each in found.get("diverged", ())]
    lines = "".join(f"<p>{escape(line)}</p>" for line in sentences)
    fine = (
        "Lower bits per byte are better. A difference is named only where its paired 95 % interval over seeds "
        "excludes zero; "
        "everything else reads \u201cno difference shown\u201d."
    )
    return f'<section class="headline">{lines}<p class="fine">{fine}</p></section>'


def _source(found: Results, data: str, drawings: Sequence[Drawing]) -> str:
    baseline = found["plan"]["baseline"]
    rows = rows_on(found, data)
    description = found["sources"].get(data, {}).get("description", "")
    notes = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(_arm_note(name, arm, found, rows))}</dd>"
        for name, arm in found["arms"].items()
        if any(r.arm == name for r in rows)
    )
    return (
        f'<section id="on-{slug(data)}"><h2>Results on {escape(data)}</h2><p class="note">{escape(description)}</p>'
        f"{tables.html(rows, baseline)}"
        f'<p class="note">\u00b1 is half a 95 % interval over {len(found["plan"]["seeds"])} seeds. '
        f"Bold marks the best mean of a column and is "
        f"not a claim. Baseline: "
        f"{escape(baseline)}, trained on {tables.count(rows[0].tokens)} tokens. "
        "Memory is the peak above the imported libraries, one draw. A dash under the seconds to the baseline\u2019s "
        "loss means that at least one seed never reached it.</p>"
        f"<dl>{notes}</dl>{page.figures(drawings)}</section>"
    )


def _where(lost: Mapping[str, Any]) -> str:
    return f"seed {lost['seed']} on {lost['data']}: diverged at step {lost['step']} and is in no number here"


def _arm_note(name: str, arm: Mapping[str, Any], found: Results, rows: Sequence[Row]) -> str:
    parts = [arm.get("note", ""), f"feed-forward width {arm['ffn_width']}" if arm.get("ffn_width") else ""]
    kinds = ", ".join(arm.get("kinds", ()))
    share = arm.get("share")
    if share:
        parts.append(
            f"{claims.number(share['true'], 0)} % of {tables.count(share['memory'] + share['experts'])} sparse "
            "parameters in memory"
        )
    skipped = sum(row.skipped for row in rows if row.arm == name)
    parts += [kinds and f"kinds {kinds}", f"{arm['steps']} steps", _apart(name, found)]
    parts.append(f"{skipped} steps were not finite and were skipped, over all seeds" if skipped else "")
    return "; ".join(part for part in parts if part)


def _apart(name: str, found: Results) -> str:
    """How far an arm's measured FLOPs are from the baseline's."""
    baseline = found["plan"]["baseline"]
    costs = {arm: values.get("cost", {}).get("flops_per_token") for arm, values in found["arms"].items()}
    if name == baseline or not costs.get(name) or not costs.get(baseline):
        return ""
    apart = 100 * (costs[name] / costs[baseline] - 1)
    matched = "" if abs(apart) <= MATCHED else ": not matched"
    return f"FLOPs per token {claims.number(apart, 1, signed=True)} % against {baseline}\u2019s{matched}"


MATCHED = 5.0
"""Percent by which an arm's FLOPs may differ from the baseline's before the page says that it is not matched."""

METHOD = (
    (
        "What is equal",
        "Within one seed all arms see the same batches in the same order and start from the same host weights "
        "(where shapes agree); only "
        "the memory and the experts differ. {match} Forward FLOPs per token, measured, against {baseline}\u2019s: "
        "{flops}. Training seconds that came out, mean over seeds: {seconds}. dense-wide, where it is run, is a "
        "dense host widened to MoVE\u2019s total parameters: same size, more compute.",
    ),
    (
        "What is measured",
        "{measured}",
    ),
    (
        "The interval",
        "Student\u2019s t, 95 %, over seeds. Differences are taken seed by seed before their spread is measured. "
        "With few seeds the "
        "interval is wide, and it should be. Several arms are tested and the intervals are not widened for that.",
    ),
    (
        "Speed",
        "All arms of a seed are trained in one process, in turn, a chunk of {chunk} steps each, the order "
        "rotated; tokens/s is the "
        "median over chunks, its ratio the median over rounds of the arm\u2019s chunk over the baseline\u2019s. "
        "Seconds are training "
        "alone, without evaluation and checkpoints. Peak memory comes from a process of its own per arm.",
    ),
    (
        "Parameters and cost",
        "Active parameters: the total less the table rows a token does not read and the experts it is not sent "
        "to. FLOPs: matrix "
        "products of one forward, counted by the profiler on the model itself, per token; elementwise work is "
        "not in it. Bytes read: "
        "active parameters in the type they are held in, as when one token is decoded alone.",
    ),
    (
        "Learning rates",
        "One recipe for all arms. Tables that are read by token id take larger steps than matrices, since most rows "
        "are rarely read: a memory\u2019s table {bank:g} times the host\u2019s rate, divided by the number of slots; "
        "the host\u2019s own input embedding, where the head does not share it, {embedding:g} times, in every arm, "
        "dense included. The two are not equal. The division is there because all slots of a token move together at "
        "the start: otherwise more slots would also mean larger steps. Experts\u2019 matrices take {expert:g} times "
        "the host\u2019s rate, their routers {router:g} times. All of these ratios and the memory\u2019s starting "
        "values were chosen by searches on factbook\u2019s held-out text, with a host of the demo\u2019s size "
        "(docs/log-2026-11-25.md, decision 0004).",
    ),
)


def _method(found: Results) -> str:
    plan = found["plan"]
    baseline = plan["baseline"]
    ratios = found.get("ratios", LR_RATIO)
    flops = [f"{arm} {_apart(arm, found).partition(' token ')[2]}" for arm in found["arms"] if _apart(arm, found)]
    fill = {
        "match": found["match"][:1].upper() + found["match"][1:] + ".",
        "chunk": plan["chunk"],
        "baseline": baseline,
        "flops": ", ".join(flops) or "no other arm was measured",
        "seconds": ", ".join(f"{row.arm} {row.seconds:,.0f} ({row.data})" for row in found["rows"]),
        "measured": medium_of(found).words.measured.format(evaluated=evaluated.words(found)),
        "bank": ratios[Role.BANK],
        "expert": ratios[Role.EXPERT],
        "router": ratios[Role.ROUTER],
        "embedding": plan["recipe"].get("embedding_ratio", Recipe().embedding_ratio),
    }
    text = "".join(f"<h3>{title}</h3><p>{escape(body.format(**fill))}</p>" for title, body in METHOD)
    data = {name: value.get("description", "") for name, value in found["sources"].items()}
    settings = {k: v for k, v in plan.items() if k not in ("recipe", "arms", "curve", "questions")} | plan["recipe"]
    return (
        f'<section id="method"><h2>How it was measured</h2>{text}<h3>Material</h3>{page.pairs(data)}'
        f"<h3>Machine and versions</h3>{page.pairs(found['environment'])}"
        f"<details><summary>All settings</summary>{page.pairs(settings)}</details>"
        f"<h3>To repeat it</h3><pre>{escape(found['command'])}</pre></section>"
    )


def _limits(found: Results) -> str:
    items = "".join(f"<li>{escape(item)}</li>" for item in medium_of(found).words.limits)
    return f'<section id="limits"><h2>What this does not show</h2><ul>{items}</ul></section>'
