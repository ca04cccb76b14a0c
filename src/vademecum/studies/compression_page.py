"""The page of the study ``compression``: the curve, a table of its points, and sentences that they support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from vademecum.compare import stats, tables
from vademecum.compare.claims import number
from vademecum.ops.codes import FORMATS
from vademecum.pages import page, style
from vademecum.pages.drawing import Drawing
from vademecum.studies.curve import PARTS, ROWS, SILENT, WEIGHTS, WIDEST_FIRST, Curve

#: Bits per byte that a sentence calls little.
LITTLE = 0.01
LIMITS = (
    "Scale. This is one small model on one text. Rows and weights of large models may be distributed otherwise.",
    "Rows and weights are not equally many, and a token reads one row of the bank but all of the weights; the curve "
    "compares parts of a model as they are, not equal numbers of values.",
    "Weights are rounded to the nearest, in blocks of 32 along their input, and rows by the same rule; methods that "
    "look at activations do better. The map to the vocabulary, embeddings and norms stay as they are.",
    "Intervals are Student\u2019s t, 95 %, over seeds; several formats are looked at and the intervals are not widened "
    "for that.",
)


def write(curve: Curve, out: Path, *, command: str) -> Path:
    """Write ``report.html`` and ``figures/`` into ``out``; returns the page's path."""
    drawing = draw(curve)
    seeds = len({point.seed for point in curve.points})
    lede = (
        f"{curve.arm}: the bank\u2019s rows, the weights of the host\u2019s linear maps, or both, compressed after "
        f"training; {seeds} seed{'s' if seeds != 1 else ''}, {curve.tokens:,} held-out tokens of {curve.text}."
    )
    limits = "".join(f"<li>{escape(item)}</li>" for item in LIMITS)
    body = (
        f'<header><h1>What fewer bits cost</h1><p class="lede">{escape(lede)}</p>'
        f'<section class="headline">{"".join(f"<p>{escape(each)}</p>" for each in sentences(curve))}</section></header>'
        f"<main>{page.figures([drawing])}{_table(curve)}"
        '<section id="method"><h2>How it was measured</h2><p>The divergence is the mean over tokens of '
        "KL(p || q) in bits, p being what the model predicts as it was trained and q what it predicts compressed. Bits "
        "per value include the scales. All points are in compression.csv.</p>"
        f"<ul>{limits}</ul><h3>To repeat it</h3><pre>{escape(command)}</pre></section></main>"
    )
    return page.write(out, "report.html", page.document("Vademecum: compression", body), [drawing])


def sentences(curve: Curve) -> list[str]:
    """What the points support: how far rows go against weights, and down to which bits each costs little."""
    said = [each for name in WIDEST_FIRST if (each := _against(curve, name))]
    for part, what in PARTS.items():
        cheap = [name for name in WIDEST_FIRST if _costs_little(curve, part, name)]
        if cheap:
            bits = curve.mean(part, cheap[-1], "bits").mean
            said.append(
                f"Less than {LITTLE:g} bits per byte is lost down to {cheap[-1]} ({bits:.2g} bits per value) in {what}."
            )
        else:
            said.append(f"No format is shown to lose less than {LITTLE:g} bits per byte in {what}.")
    silent = curve.mean(ROWS, SILENT, "excess")
    said.append(f"Without the memory at all the text takes {tables.interval(silent, signed=True)} bits per byte.")
    if silent.half is None:
        said.append("One seed: no interval, and so no claim.")
    return said


def _against(curve: Curve, name: str) -> str:
    factor = curve.factor(ROWS, WEIGHTS, name)
    if factor is None or factor.half is None:
        return ""
    low, middle, high = (math.exp(each) for each in (factor.mean - factor.half, factor.mean, factor.mean + factor.half))
    interval = f"(95 % interval {low:.2f} to {high:.2f})"
    if low <= 1 <= high:
        return f"{name}: {stats.NO_DIFFERENCE} between rows and weights {interval}."
    lead = curve.lead(ROWS, WEIGHTS, name) if FORMATS[name].bits < 8 and FORMATS[name].bits else None
    worth = "" if lead is None else f", which is worth {tables.interval(lead, 2, signed=True)} bits per value"
    return f"{name}: compressing the rows moves predictions {middle:.2f} times as far as the weights {interval}{worth}."


def _costs_little(curve: Curve, part: str, name: str) -> bool:
    excess = curve.mean(part, name, "excess")
    return excess.mean + (excess.half or 0.0) < LITTLE


def draw(curve: Curve) -> Drawing:
    """Divergence and bits per byte lost over bits per value, a line per part."""
    with style.styled():
        figure, axes = style.canvas(columns=2, width=10.0, height=3.9)
        looks = style.looks(list(PARTS), "both")
        for axis, name in zip(axes, ("divergence", "excess"), strict=True):
            for part in PARTS:
                _line(axis, curve, part, name, looks[part])
            axis.set_xlabel("bits per value, scales included (fewer to the right)")
            axis.set_xscale("log", base=2)
            marks = [curve.mean(ROWS, form, "bits").mean for form in WIDEST_FIRST]
            axis.set_xticks(marks, [f"{form}\n{bits:.3g}" for form, bits in zip(WIDEST_FIRST, marks, strict=True)])
            axis.minorticks_off()
            axis.invert_xaxis()
            silent = curve.mean(ROWS, SILENT, name).mean
            if silent > 0:
                axis.axhline(silent, color=style.MUTED, lw=1, ls=":", label="memory silenced")
        axes[0].set_yscale("log")
        axes[0].set_title("Divergence from the uncompressed model, bits per token")
        axes[1].set_yscale("symlog", linthresh=1e-3)
        axes[1].set_title("Bits per byte lost")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        shown = ", ".join(f"{part} {curve.mean(part, 'int4', 'divergence').mean:.2g}" for part in PARTS)
        return Drawing(
            "compression",
            f"What fewer bits cost: divergence at int4, bits per token: {shown}",
            "A line is the mean over seeds, its band reaches from the lowest seed to the highest. Dotted: the same "
            "model with its memory silenced.",
            figure,
        )


def _line(axis: Any, curve: Curve, part: str, name: str, look: style.Look) -> None:
    bits = [curve.mean(part, form, "bits").mean for form in WIDEST_FIRST]
    values = np.array([list(curve.by_seed(part, form, name).values()) for form in WIDEST_FIRST])
    axis.plot(bits, values.mean(1), color=look.color, marker=look.marker, ls=look.line, label=PARTS[part])
    axis.fill_between(bits, values.min(1), values.max(1), color=look.color, alpha=0.16, lw=0)


def rows(curve: Curve) -> list[Sequence[str]]:
    """The table's cells, a heading first."""
    found: list[Sequence[str]] = [
        ("part", "format", "bits", "values", "relative error", "divergence", "bits per byte lost")
    ]
    for part in PARTS:
        for form in (*WIDEST_FIRST, SILENT):
            if not curve.by_seed(part, form, "bits"):
                continue
            found.append(
                (
                    part,
                    form,
                    f"{curve.mean(part, form, 'bits').mean:.3g}",
                    tables.count(curve.mean(part, form, "values").mean),
                    f"{curve.mean(part, form, 'error').mean:.2%}",
                    _small(curve, part, form),
                    tables.interval(curve.mean(part, form, "excess"), 4, signed=True),
                )
            )
    return found


def _small(curve: Curve, part: str, form: str) -> str:
    value = curve.mean(part, form, "divergence")
    digits = max(3, 2 - math.floor(math.log10(value.mean))) if value.mean > 0 else 3
    return (
        number(value.mean, digits)
        if value.half is None
        else f"{number(value.mean, digits)} \u00b1 {number(value.half, digits)}"
    )


def _table(curve: Curve) -> str:
    head, *body = rows(curve)
    cells = "".join(f'<th scope="col">{escape(each)}</th>' for each in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
        '<p class="note">Means over seeds with half their 95 % interval. Divergence in bits per token.</p>'
    )
