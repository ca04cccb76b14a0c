"""The result table, as HTML for the report and as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from vademecum.compare import stats
from vademecum.compare.claims import number
from vademecum.compare.results import Row
from vademecum.compare.stats import Estimate

DASH = "\u2013"


def count(value: float, of: str = "") -> str:
    """A count in thousands (k), millions (M) or billions (G) with three digits, of a unit such as B: 3.14 MB."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:  # from here on three digits of the smaller unit would round up to 1,000
            return f"{value / size:.3g}\u00a0{unit}{of}"
    return f"{value:.0f}\u00a0{of}" if of else f"{value:.0f}"


def interval(value: Estimate | None, digits: int = 3, *, signed: bool = False) -> str:
    """Mean and half interval, "1.608 \u00b1 0.012"; the mean alone where one seed gives no interval."""
    if value is None:
        return DASH
    mean = number(value.mean, digits, signed=signed)
    return mean if value.half is None else f"{mean} \u00b1 {number(value.half, digits)}"


@dataclass(frozen=True)
class Column:
    """A column: group, heading, text per row, and the key whose ``best`` (min or max) is marked, None for none."""

    group: str
    heading: str
    text: Callable[[Row], str]
    key: Callable[[Row], float | None] | None = None
    best: Callable[..., float] = min
    words: bool = False


COLUMNS: Sequence[Column] = (
    Column("Held out", "bits per byte", lambda r: interval(r.bits_per_byte), lambda r: r.bits_per_byte.mean),
    Column("Held out", "less baseline, paired", lambda r: interval(r.difference, signed=True)),
    Column("Held out", "verdict", lambda r: r.verdict, words=True),
    Column("Held out", "memory silenced", lambda r: interval(r.knockout)),
    Column("Held out", "less as it is, paired", lambda r: interval(r.knockout_difference, signed=True)),
    Column("Parameters", "total", lambda r: count(r.total_params)),
    Column("Parameters", "active", lambda r: count(r.active_params)),
    Column("Per token", "FLOPs", lambda r: count(r.flops_per_token), lambda r: r.flops_per_token),
    Column("Per token", "bytes read", lambda r: count(r.bytes_per_token, "B"), lambda r: r.bytes_per_token),
    Column("Training", "tokens/s", lambda r: f"{r.tokens_per_second:,.0f}", lambda r: r.tokens_per_second, max),
    Column("Training", "over baseline", lambda r: interval(r.speed_ratio, 2)),
    Column("Training", "tokens", lambda r: count(r.tokens)),
    Column("Training", "seconds", lambda r: f"{r.seconds:,.0f}", lambda r: r.seconds),
    Column(
        "Training",
        "s to baseline\u2019s loss",
        lambda r: interval(r.seconds_to_baseline, 0),
    ),
    Column(
        "Training",
        "peak memory",
        lambda r: DASH if r.peak_memory is None else count(r.peak_memory, "B"),
        lambda r: r.peak_memory,
    ),
)


EQUAL = "tokens"
"""Column that the report leaves to a note below the table where it is the same for every arm."""


def html(rows: Sequence[Row], baseline: str) -> str:
    """The table of one source. Bold marks the best mean of a column, which is not a claim; the verdict is."""
    shown = [c for c in COLUMNS if c.heading != EQUAL or len({c.text(row) for row in rows}) > 1]
    best = [_best(column, rows) for column in shown]
    groups: list[tuple[str, int]] = []
    for column in shown:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    head = "".join(f'<th colspan="{n}" scope="colgroup">{escape(name)}</th>' for name, n in groups)
    names = "".join(f'<th scope="col"{_class(words=c.words)}>{escape(c.heading)}</th>' for c in shown)
    body = []
    for row in rows:
        cells = "".join(
            f"<td{_class(words=c.words, best=_is_best(c, row, b))}>{_cell(c, row)}</td>"
            for c, b in zip(shown, best, strict=True)
        )
        mark = ' class="baseline"' if row.arm == baseline else ""
        body.append(f"<tr{mark}><td>{escape(row.arm)}</td>{cells}</tr>")
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th></th>{head}</tr>'
        f'<tr><th scope="col">arm</th>{names}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _best(column: Column, rows: Sequence[Row]) -> float | None:
    values = [v for row in rows if column.key is not None and (v := column.key(row)) is not None]
    return column.best(values) if len(values) > 1 and len(set(values)) > 1 else None


def _is_best(column: Column, row: Row, best: float | None) -> bool:
    return best is not None and column.key is not None and column.key(row) == best


def _class(**on: bool) -> str:
    names = " ".join(name for name, is_on in on.items() if is_on)
    return f' class="{names}"' if names else ""


def _cell(column: Column, row: Row) -> str:
    text = escape(column.text(row))
    if column.words:
        kind = {stats.BETTER: "better", stats.WORSE: "worse"}.get(row.verdict, "none")
        return f'<span class="{kind}">{text}</span>'
    mean, sign, half = text.partition(" \u00b1 ")
    return f'{mean}<span class="half"> \u00b1 {half}</span>' if sign else text


def text(rows: Sequence[Row]) -> str:
    """A short table for the terminal: quality, size, speed."""
    cells = [["arm", "bits per byte", "less baseline", "", "parameters", "tokens/s", "over baseline", "peak"]]
    for row in rows:
        cells.append(
            [
                row.arm,
                interval(row.bits_per_byte),
                interval(row.difference, signed=True),
                row.verdict,
                count(row.total_params),
                f"{row.tokens_per_second:,.0f}",
                interval(row.speed_ratio, 2),
                DASH if row.peak_memory is None else count(row.peak_memory, "B"),
            ]
        )
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )
