"""The questions of a comparison as a figure, and quality against the share of the budget that lies in memory."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from itertools import pairwise

from vademecum.compare import stats, tables
from vademecum.compare.drawing import Results, looks, rows_on
from vademecum.compare.names import slug
from vademecum.compare.questions import Answer, read
from vademecum.compare.results import Row
from vademecum.compare.stats import Estimate
from vademecum.pages import style
from vademecum.pages.drawing import Drawing

WORDS = 60
"""Letters of a question on one line of the figure."""


def draw_all(results: Results, data: str) -> list[Drawing]:
    """Every figure there is something for on the source ``data``."""
    with style.styled():
        return [drawing for draw in FIGURES if (drawing := draw(results, data)) is not None]


def answers_on(results: Results, data: str) -> list[Answer]:
    """The answers on one source."""
    return [answer for answer in read(results) if answer.data == data]


def questions(results: Results, data: str) -> Drawing | None:
    """Forest plot of the answers: every question's paired difference with its interval."""
    shown = [(answer, answer.difference) for answer in answers_on(results, data) if answer.difference is not None]
    if not shown:
        return None
    look = looks(results)
    figure, (axis,) = style.canvas(width=9.2, height=0.8 + 0.46 * len(shown))
    for y, (answer, found) in enumerate(shown):
        mark = look[answer.arm]
        if found.half is not None:
            axis.plot([found.low, found.high], [y, y], color=mark.color, lw=2.2, solid_capstyle="round")
        axis.plot(found.values, [y + 0.25] * found.n, "|", color=mark.color, ms=5, alpha=0.75)
        axis.plot([found.mean], [y], mark.marker, color=mark.color, ms=6.5)
        axis.annotate(
            f"{tables.interval(found, signed=True)}  {answer.words.lower()}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color=style.INK if answer.verdict in (stats.BETTER, stats.WORSE) else style.MUTED,
            annotation_clip=False,
        )
    axis.axvline(0, color=style.INK, lw=1)
    named = [f"{textwrap.fill(a.text, WORDS)}\n{a.arm} less {a.against}" for a, _ in shown]
    axis.set_yticks(range(len(shown)), named, fontsize=7.8, linespacing=1.15)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("bits per byte (left of 0: yes)")
    counts = [sum(answer.words == word for answer, _ in shown) for word in ("Yes", "No", "Not shown", "No claim")]
    said = [f"{n} {word}" for n, word in zip(counts, ("yes", "no", "not shown", "without a claim"), strict=True) if n]
    return Drawing(
        f"questions-{slug(data)}",
        f"What was asked: {', '.join(said)}",
        "Dot: mean over seeds of the first arm's bits per byte less the second's at the same seed. Bar: its 95 % "
        "interval. Small ticks: the seeds. Only a bar that does not touch the line at 0 is an answer. The intervals "
        "are not widened for how many questions are asked.",
        figure,
    )


def split(results: Results, data: str) -> Drawing | None:
    """Quality against the share of the sparse parameters that lies in memory."""
    shown = _rows_by_share(results, data)
    if len(shown) < 3 or any(row.difference is None for _, row in shown):
        return None
    baseline = results["plan"]["baseline"]
    figure, (left, right) = style.canvas(columns=2, width=9.2, height=3.5)
    color = looks(results)[shown[-1][1].arm].color
    zero = shown[0][1]
    panels = (
        (left, baseline, [row.difference for _, row in shown]),
        (right, zero.arm, [Estimate(0.0, None, 1), *(paired(row, zero) for _, row in shown[1:])]),
    )
    for axis, against, found in panels:
        points = [(share, each) for (share, _), each in zip(shown, found, strict=True) if each is not None]
        axis.errorbar(
            [share for share, _ in points],
            [each.mean for _, each in points],
            yerr=[each.half or 0.0 for _, each in points],
            color=color,
            marker="o",
            capsize=3,
        )
        for share, each in points:
            axis.plot([share] * len(each.values), each.values, "_", color=color, ms=6, alpha=0.7)
        axis.axhline(0, color=style.MUTED, lw=1.4)
        axis.set_xlabel("% of the sparse parameters in memory")
        axis.set_ylabel(f"bits per byte, less {against}'s")
        axis.set_xticks([share for share, _ in shown], [f"{share:.0f}" for share, _ in shown])
    return Drawing(
        f"split-{slug(data)}",
        shape(results, data) or "Quality against the split between experts and memory",
        "One budget of sparse parameters, in experts beyond the active ones (left end) or in slots of a table (right "
        "end), at equal active compute. Left: difference to the baseline, right: to the arm that has all of it in "
        "experts; paired by seed, with 95 % intervals; small ticks: the seeds. Shares are what whole slots and whole "
        "experts came to.",
        figure,
    )


def shape(results: Results, data: str) -> str | None:
    """Whether the split is U-shaped, from paired differences: a share in between must be below both ends."""
    shown = [row for _, row in _rows_by_share(results, data)]
    if len(shown) < 3:
        return None
    first, last = shown[0], shown[-1]
    ends = [(row, paired(row, first), paired(row, last)) for row in shown[1:-1]]
    if any(row.diverged or row.bits_per_byte.n < 2 for row in shown) or any(a is None or b is None for _, a, b in ends):
        return "Whether the split is U-shaped is not known: seeds are missing"
    below = [row.arm for row, a, b in ends if stats.verdict(a) == stats.verdict(b) == stats.BETTER]
    if below:
        return f"The split is U-shaped: {' and '.join(below)} below both {first.arm} and {last.arm}"
    best = stats.verdict(paired(last, first))
    falls = {
        stats.BETTER: f", and {last.arm} is below {first.arm}",
        stats.WORSE: f", and {first.arm} is below {last.arm}",
    }
    return f"That the split is U-shaped is not shown{falls.get(best, '')}"


def paired(row: Row, other: Row) -> Estimate | None:
    """``row`` less ``other`` seed by seed; None where one of them lacks seeds."""
    if row.diverged or other.diverged or len(row.bits_per_byte.values) != len(other.bits_per_byte.values):
        return None
    values = zip(row.bits_per_byte.values, other.bits_per_byte.values, strict=True)
    return stats.estimate([a - b for a, b in values])


def _rows_by_share(results: Results, data: str) -> list[tuple[float, Row]]:
    shares = {name: arm["share"]["true"] for name, arm in results["arms"].items() if arm.get("share")}
    found = sorted(
        ((shares[row.arm], row) for row in rows_on(results, data) if row.arm in shares), key=lambda each: each[0]
    )
    # Two arms of one share would be one point of the curve twice.
    return found if all(a[0] < b[0] for a, b in pairwise(found)) else []


FIGURES: Sequence[Callable[[Results, str], Drawing | None]] = (questions, split)
"""Figures in reading order."""
