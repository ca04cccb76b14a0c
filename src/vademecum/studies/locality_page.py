"""The page of the study ``locality``: curves over the budget, tables of points, and sentences that they support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from vademecum.compare import results, stats, tables
from vademecum.compare.plan import Plan
from vademecum.compare.results import Row
from vademecum.compare.stats import Estimate
from vademecum.pages import page
from vademecum.studies.locality_figures import draw
from vademecum.studies.locality_points import BANK, ONE, READERS, RESIDENT, TOTAL, Point, Points
from vademecum.studies.locality_reads import MODES, Mode

LIMITS = (
    "Scale. These are small models. What a token asks for grows with layers, experts and their width on one side and "
    "with slots and the width of values on the other; the ratio of both is another in another model.",
    "A row and an expert are not the same thing: experts compute with what is moved, a row is only added. Compute per "
    "token and quality stand in the first table beside what is moved.",
    "Bytes moved are counted and do not depend on the machine. Tokens per second do: where not said otherwise the "
    "system keeps the file in its own cache, so that a read is a copy and not a wait. In decode-cold it is told to "
    "forget every page after it was read; whether the disk below keeps it is not known.",
    "Nothing is fetched ahead, for neither. A bank\u2019s ids are known before the first layer and could be; an "
    "expert\u2019s are known when its layer runs.",
    "Caches are filled by a short text. Where a budget holds all rows that it has asked for, what the bank still moves "
    "are rows that are new to it, and more memory does not help; an expert is soon known to every cache.",
    "Equal caches are not equal memory: the model with the bank also keeps a dense feed-forward in memory, which the "
    "experts have taken the place of. experts-total has that much more room for experts.",
    "Text is fed as it stands, not sampled. Experts are trained with a balancing loss, which makes them less local "
    "than experts that may collapse.",
    "Intervals are Student\u2019s t, 95 %, over seeds, each with its own training and its own part of the held-out "
    "text; many points are looked at and the intervals are not widened for that.",
)


def costs(plan: Plan, comparison: Path) -> list[Row]:
    """Rows of the comparison that trained the arms: quality and cost of each."""
    rows: list[Row] = results.read(comparison)["rows"]
    return [row for row in rows if row.arm in {arm.name for arm in plan.arms}]


def write(
    found: Points,
    rows: Sequence[Row],
    out: Path,
    *,
    plan: Plan,
    pairs: Mapping[str, tuple[str, str]],
    read: str,
    command: str,
    comparison: str,
) -> Path:
    """Write ``report.html`` and ``figures/`` into ``out``; returns the page's path."""
    drawings = {pair: draw(found, pair, _title(found, pair)) for pair in pairs}
    ids = {pair: f"pair-{place}" for place, pair in enumerate(pairs, start=1)}
    notes = {arm.name: arm.note for arm in plan.arms}
    fine = "A difference is named only where its paired 95 % interval over seeds excludes zero; \u00b1 is half of it."
    body = "".join(
        [
            "<header><h1>Locality: what a bounded memory has to move</h1>",
            f'<p class="lede">{escape(_lede(plan, read))}</p><section class="headline">',
            *(f"<p>{escape(each)}</p>" for each in sentences(found)),
            f'<p class="fine">{fine}</p></section>',
            page.links({ids[pair]: pair for pair in pairs} | {"method": "How it was measured"}),
            f"</header><main>{_arms(found, rows, pairs, notes)}",
            *(
                f'<section id="{ids[pair]}"><h2>{escape(pair)}</h2>{page.figures([drawings[pair]])}'
                f"{''.join(_table(found, pair, mode) for mode in MODES)}</section>"
                for pair in pairs
            ),
            _method(read, command, comparison),
            "</main>",
        ]
    )
    return page.write(out, "report.html", page.document("Vademecum: locality", body), list(drawings.values()))


def sentences(found: Points) -> list[str]:
    """What the points support, pair by pair and mode by mode, for the bank and against it."""
    said = []
    for pair in dict.fromkeys(point.pair for point in found.points):
        for mode in MODES:
            parts = [_speeds(found, pair, mode)]
            if not mode.cold:  # the same bytes as warm
                parts = [_bytes(found, pair, mode), _hits(found, pair, mode), *parts]
            if any(parts):
                said.append(f"{pair}, {mode.title}: {' '.join(part for part in parts if part)}")
    if len({point.seed for point in found.points}) == 1:
        said.append("One seed: no interval, and so no claim.")
    return said


def _bytes(found: Points, pair: str, mode: Mode) -> str:
    budgets = found.budgets(pair, mode.name)
    factors = {budget: factor for budget in budgets if (factor := found.fewer(pair, mode.name, budget))}
    parts = _moved(factors)
    parts += [text for budget in budgets if budget not in factors and (text := _bare(found, pair, mode, budget))]
    total = _moved({b: factor for b in budgets if (factor := found.fewer(pair, mode.name, b, TOTAL))})
    said = f"with equal caches {'; '.join(parts)}." if parts else ""
    return f"{said} With equal memory in all {'; '.join(total)}." if total else said


def _moved(factors: Mapping[float, Estimate]) -> list[str]:
    """With which budgets experts move more bytes and how many times, with which fewer, with which neither is shown."""
    more, less, same = _sorted(factors)
    parts = []
    if more:
        at = [_times(10 ** factors[budget].mean) for budget in more]
        parts.append(f"experts move {_list(at)} times as many bytes per token as the bank with {_shares(more)}")
    if less:
        at = [_times(10 ** -factors[budget].mean) for budget in less]
        parts.append(f"the bank moves {_list(at)} times as many as experts with {_shares(less)}")
    if same:
        parts.append(f"{stats.NO_DIFFERENCE} with {_shares(same)}")
    return parts


def _bare(found: Points, pair: str, mode: Mode, budget: float) -> str:
    """Both numbers, where one is zero on some seed, so that there is no factor."""
    rival = found.rival(pair, mode.name, budget)
    if rival is None:
        return ""
    mine, theirs = (found.mean(pair, mode.name, each, budget, "moved_per_token") for each in (BANK, rival))
    if mine is None or theirs is None or mine.half is None:
        return ""
    moved = tables.count(mine.mean, "B"), tables.count(theirs.mean, "B")
    return f"with {_shares([budget])} the bank moves {moved[0]}, experts {moved[1]}"


def _hits(found: Points, pair: str, mode: Mode) -> str:
    budgets = found.budgets(pair, mode.name)
    values = {b: value for b in budgets if (value := found.difference(pair, mode.name, b, "hit_rate"))}
    return _directions("Hit rate", values)


def _speeds(found: Points, pair: str, mode: Mode) -> str:
    budgets = found.budgets(pair, mode.name)
    values = {b: value for b in budgets if (value := found.keeping(pair, mode.name, b))}
    said = _directions("Tokens per second over those in memory", values)
    if not said:
        return ""
    slowed = {BANK: [found.slowing(pair, mode.name, BANK, b) for b in values]}
    slowed["experts"] = [found.slowing(pair, mode.name, found.rival(pair, mode.name, b) or ONE, b) for b in values]
    means = {name: [each.mean for each in slow if each] for name, slow in slowed.items()}
    shown = ", ".join(f"{name} {min(each):.2f} to {max(each):.2f}" for name, each in means.items())
    return f"{said} (Means: {shown}.)"


def _directions(what: str, values: Mapping[float, Estimate]) -> str:
    """With which budgets ``what`` is higher for the bank, with which for experts; "" where no value has an interval."""
    higher, lower, same = _sorted(values)
    named = (("higher for the bank", higher), ("higher for experts", lower), (stats.NO_DIFFERENCE, same))
    parts = [f"{way} with {_shares(at)}" for way, at in named if at]
    return f"{what}: {'; '.join(parts)}." if parts else ""


def _sorted(values: Mapping[float, Estimate]) -> tuple[list[float], list[float], list[float]]:
    """Budgets whose interval lies above zero, below zero, on both sides; those without an interval are left out."""
    known = {budget: value for budget, value in values.items() if value.half is not None}
    shown = {budget: value for budget, value in known.items() if excludes_zero(value)}
    return (
        [budget for budget, value in shown.items() if value.mean > 0],
        [budget for budget, value in shown.items() if value.mean < 0],
        [budget for budget in known if budget not in shown],
    )


def _shares(budgets: Sequence[float]) -> str:
    return _list([f"{100 * budget:g}\u00a0%" for budget in budgets])


def _list(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _times(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def excludes_zero(value: Estimate) -> bool:
    """Whether an interval supports a direction."""
    return value.half is not None and abs(value.mean) > value.half


def _title(found: Points, pair: str) -> str:
    """What is seen: bytes moved at the middle budget, token by token."""
    mode = MODES[0].name
    budgets = found.budgets(pair, mode)
    if not budgets:
        return pair
    budget = budgets[len(budgets) // 2]
    shown = [
        f"{tables.count(value.mean, 'B')} by {label}"
        for reader, label in READERS.items()
        if (value := found.mean(pair, mode, reader, budget, "moved_per_token"))
    ]
    return f"{pair}: moved per token with {_shares([budget])} in memory, {MODES[0].title}: {'; '.join(shown)}"


def _lede(plan: Plan, read: str) -> str:
    return (
        f"Two kinds of models of about as many parameters in a file, and the same bytes of memory for what was read "
        f"last: a bank\u2019s rows, read by token id, and experts, read where a trained router chose them. Small "
        f"{plan.host} models (size {plan.size}), trained {plan.recipe.steps} steps of "
        f"{plan.recipe.tokens_per_step:,} tokens of {plan.data[0]}; {len(plan.seeds)} "
        f"seed{'s' if len(plan.seeds) != 1 else ''}; held-out text in passages of {plan.recipe.length} tokens, of "
        f"which {read}."
    )


def _cells(rows: Sequence[Sequence[str]], *, note: str, caption: str = "") -> str:
    head, *body = rows
    cells = "".join(f'<th scope="col">{escape(each)}</th>' for each in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body)
    title = f"<h3>{escape(caption)}</h3>" if caption else ""
    return (
        f'{title}<div class="scroll" tabindex="0"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>'
        f'</div><p class="note">{escape(note)}</p>'
    )


def _arms(found: Points, rows: Sequence[Row], pairs: Mapping[str, tuple[str, str]], notes: Mapping[str, str]) -> str:
    lines: list[Sequence[str]] = [
        (
            "arm",
            "bits per byte",
            "parameters",
            "active",
            "FLOPs per token",
            "always in memory",
            "bytes in the file",
            "asked per token",
            "share of the file",
        )
    ]
    sides = {arm: (pair, reader) for pair, arms in pairs.items() for arm, reader in zip(arms, (BANK, ONE), strict=True)}
    for row in rows:
        rest = offloaded = asked = share = tables.DASH
        if row.arm in sides:
            pair, reader = sides[row.arm]
            points = [p for p in found.points if (p.pair, p.reader) == (pair, reader) and p.mode == MODES[0].name]
            measured = [p for p in points if p.budget != RESIDENT]
            if measured:
                mean = stats.estimate([p.asked_per_token for p in measured]).mean
                rest = tables.count(measured[0].rest_bytes, "B")
                offloaded = tables.count(measured[0].offloaded_bytes, "B")
                asked, share = tables.count(mean, "B"), f"{mean / measured[0].offloaded_bytes:.3%}"
        lines.append(
            (
                row.arm,
                tables.interval(row.bits_per_byte),
                tables.count(row.total_params),
                tables.count(row.active_params),
                tables.count(row.flops_per_token),
                rest,
                offloaded,
                asked,
                share,
            )
        )
    said = "; ".join(f"{name}: {note}" for name, note in notes.items())
    return _cells(lines, note=f"Asked per token: what {MODES[0].title} would be moved without a cache. {said}.")


def table_rows(found: Points, pair: str, mode: Mode) -> list[Sequence[str]]:
    """The cells of one pair in one mode, a heading first."""
    lines: list[Sequence[str]] = [
        ("memory", "read", "moved per token", "over bytes in the file", "hit rate", "held", "tokens/s", "over resident")
    ]

    def shown(reader: str, budget: float, name: str, digits: int) -> str:
        return tables.interval(found.mean(pair, mode.name, reader, budget, name), digits)

    for budget in (*found.budgets(pair, mode.name), RESIDENT):
        for reader in READERS:
            moved = found.mean(pair, mode.name, reader, budget, "moved_per_token")
            if moved is None:
                continue
            points = [
                p for p in found.points if (p.pair, p.mode, p.reader, p.budget) == (pair, mode.name, reader, budget)
            ]
            if budget == RESIDENT:
                speed = shown(reader, budget, "speed", 0)
                name = reader if reader == BANK else "experts"
                lines.append(("all of it", name, *[tables.DASH] * 3, _held(points), speed, "1"))
                continue
            half = "" if moved.half is None else f" \u00b1 {tables.count(moved.half, 'B')}"
            lines.append(
                (
                    f"{_shares([budget])} ({tables.count(max(p.budget_bytes for p in points), 'B')})",
                    reader,
                    f"{tables.count(moved.mean, 'B')}{half}",
                    f"{moved.mean / points[0].offloaded_bytes:.4%}",
                    shown(reader, budget, "hit_rate", 3),
                    _held(points) + ("" if all(p.within for p in points) else ", more than allowed"),
                    shown(reader, budget, "speed", 0),
                    tables.interval(found.slowing(pair, mode.name, reader, budget), 2),
                )
            )
    return lines


def _held(points: Sequence[Point]) -> str:
    return tables.count(max(point.held for point in points), "B")


def _table(found: Points, pair: str, mode: Mode) -> str:
    return _cells(
        table_rows(found, pair, mode),
        caption=f"{mode.name}: {mode.title}",
        note="Means over seeds with half their 95 % interval. Held: most bytes in memory, bookkeeping and the copy of "
        "rows that a forward works on included.",
    )


def _method(read: str, command: str, comparison: str) -> str:
    limits = "".join(f"<li>{escape(item)}</li>" for item in LIMITS)
    return (
        '<section id="method"><h2>How it was measured</h2>'
        f'<p>The models were trained by <a href="{escape(comparison)}">a comparison of their own</a>. '
        "Rows and experts are read from safetensors files with positioned reads, without a mapping. "
        "The budget is in bytes, the same for both, as a share of what it takes to keep the larger of both whole; it "
        "has to hold everything that is kept, 200 bytes of bookkeeping for each row or expert and the copy of rows "
        "that a forward works on included. Experts are used where they lie in the cache, one after the other, those "
        "that are there first. Of the two ways to keep experts, sentences take the one that moves fewer bytes there. "
        f"Of every text {escape(read)}, all models in turn. What fills them is asked for as forwards of that text ask, "
        "rows by its ids and experts by what the trained router chooses on it, and nothing is computed. A budget "
        "without room for the rows of a forward, kept and copied, or for one expert in every cache has no point. "
        "A row or expert that several tokens of one forward need is asked for once. All points are in locality.csv.</p>"
        f"<ul>{limits}</ul><h3>To repeat it</h3><pre>{escape(command)}</pre></section>"
    )
