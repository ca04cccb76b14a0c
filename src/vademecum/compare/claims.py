"""Sentences the numbers support, and no others."""

from __future__ import annotations

from collections.abc import Sequence

from vademecum.compare import stats
from vademecum.compare.results import Row
from vademecum.compare.stats import Estimate

MINUS = "\u2212"


def number(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """A number with a proper minus sign; ``signed`` writes the plus too."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", MINUS)


def of_row(row: Row, baseline: str) -> str:
    """What one row supports, as a sentence."""
    difference = row.difference
    if row.verdict not in (stats.BETTER, stats.WORSE) or difference is None or difference.half is None:
        return f"{row.arm}: {row.verdict}."
    direction = "below" if row.verdict == stats.BETTER else "above"
    size = f"{number(abs(difference.mean))} \u00b1 {number(difference.half)}"
    text = f"{row.arm} ends {size} bits per byte {direction} {baseline}"
    return text + _speed(row.speed_ratio) + "."


def _speed(ratio: Estimate | None) -> str:
    """What the ratio of the training speeds supports; nothing where there is no interval."""
    if ratio is None or ratio.half is None:
        return ""
    if abs(ratio.mean - 1) <= ratio.half:
        return ", with no difference in training speed shown"
    return f", at {number(ratio.mean, 2)} \u00b1 {number(ratio.half, 2)} of its training speed"


def headline(rows: Sequence[Row], baseline: str) -> list[str]:
    """Sentences for the top of the report: what is better, what is worse, where nothing is shown."""
    compared = [row for row in rows if row.arm != baseline]
    sources = list(dict.fromkeys(row.data for row in rows))
    if not compared:
        return [f"Only {baseline} was run: there is nothing to compare."]
    if all(row.verdict == stats.ONE_SEED for row in compared):
        return ["One seed was run, so no claim is made: the numbers below are a single draw."]
    if len(sources) == 1:
        return _one_source(compared, baseline)
    return [
        _over_sources(arm, [row for row in compared if row.arm == arm], baseline)
        for arm in dict.fromkeys(r.arm for r in compared)
    ]


def _one_source(rows: Sequence[Row], baseline: str) -> list[str]:
    claims = sorted(
        (row for row in rows if row.verdict == stats.BETTER), key=lambda r: r.difference.mean if r.difference else 0
    )
    claims += [row for row in rows if row.verdict == stats.WORSE]
    sentences = [of_row(row, baseline) for row in claims]
    silent = [row.arm for row in rows if row.verdict == stats.NO_DIFFERENCE]
    if silent:
        sentences.append(f"{', '.join(silent)}: {stats.NO_DIFFERENCE}.")
    named = (stats.BETTER, stats.WORSE, stats.NO_DIFFERENCE)
    return sentences + [f"{row.arm}: {row.verdict}." for row in rows if row.verdict not in named]


def _over_sources(arm: str, rows: Sequence[Row], baseline: str) -> str:
    parts = []
    for verdict, words in ((stats.BETTER, "below"), (stats.WORSE, "above")):
        found = [row for row in rows if row.verdict == verdict and row.difference is not None]
        if found:
            listed = ", ".join(
                f"{row.data} {number(row.difference.mean, signed=True)}" for row in found if row.difference
            )
            parts.append(f"{words} {baseline} on {len(found)} of {len(rows)} texts ({listed})")
    silent = [row.data for row in rows if row.verdict == stats.NO_DIFFERENCE]
    if silent:
        parts.append(f"{stats.NO_DIFFERENCE} on {', '.join(silent)}")
    named = (stats.BETTER, stats.WORSE, stats.NO_DIFFERENCE)
    parts += [f"{row.verdict} on {row.data}" for row in rows if row.verdict not in named]
    return f"{arm}: {'; '.join(parts)}."
