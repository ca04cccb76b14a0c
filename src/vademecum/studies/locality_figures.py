"""The figure of the study ``locality``: a column per way of reading, a row per measure, a line per kind of reader."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vademecum.pages import style
from vademecum.pages.drawing import Drawing
from vademecum.studies.locality_points import READERS, Points
from vademecum.studies.locality_reads import MODES

Values = Callable[[Points, str, str, str, float], Mapping[int, float]]


def _field(name: str) -> Values:
    return lambda found, pair, mode, reader, budget: found.by_seed(pair, mode, reader, budget, name)


MEASURES: Mapping[str, Values] = {
    "bytes moved per token": _field("moved_per_token"),
    "hit rate": _field("hit_rate"),
    "tokens/s over resident": Points.kept,
}


def draw(found: Points, pair: str, title: str) -> Drawing:
    """All measures of ``pair`` over the budget."""
    with style.styled():
        figure, axes = style.canvas(columns=len(MODES), rows=len(MEASURES), width=12.0, height=7.6, sharex=True)
        looks = style.looks(list(READERS), "")
        for row, (measure, values) in enumerate(MEASURES.items()):
            for column, mode in enumerate(MODES):
                axis = axes[row * len(MODES) + column]
                for reader in READERS:
                    _line(axis, found, pair, mode.name, reader, values, looks[reader])
                axis.set_xscale("log")
                if row == 0:
                    axis.set_yscale("symlog", linthresh=10)
                    axis.set_title(textwrap.fill(mode.title, 32))
                axis.margins(y=0.12)
                axis.set_ylim(bottom=0)
                if column == 0:
                    axis.set_ylabel(measure)
                if row == len(MEASURES) - 1:
                    marks = found.budgets(pair, mode.name)
                    axis.set_xticks(marks, [f"{100 * mark:g} %" for mark in marks])
                    axis.minorticks_off()
                    axis.set_xlabel("memory over what keeps all")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        slug = "".join(mark if mark.isalnum() else "-" for mark in pair.replace(" | ", "-"))
        caption = (
            "A line is the mean over seeds, its band reaches from the lowest seed to the highest. Bytes below 10 are "
            "drawn on a linear scale."
        )
        return Drawing(f"locality-{slug}", title, caption, figure)


def _line(axis: Any, found: Points, pair: str, mode: str, reader: str, values: Values, look: style.Look) -> None:
    by_budget = {
        budget: list(values(found, pair, mode, reader, budget).values()) for budget in found.budgets(pair, mode)
    }
    shown = {budget: each for budget, each in by_budget.items() if each}
    if not shown:
        return
    budgets = list(shown)
    axis.plot(
        budgets,
        [np.mean(each) for each in shown.values()],
        color=look.color,
        marker=look.marker,
        ls=look.line,
        ms=4,
        label=READERS[reader],
    )
    lowest, highest = [min(each) for each in shown.values()], [max(each) for each in shown.values()]
    axis.fill_between(budgets, lowest, highest, color=look.color, alpha=0.16, lw=0)
