"""Small multiples over training: one panel per measure, a mean line per arm, a band from lowest to highest seed."""

from __future__ import annotations

from typing import Any

from vademecum.pages import style
from vademecum.pages.drawing import Drawing
from vademecum.studies.groups import Group, Measure
from vademecum.studies.series import QUALITY, Series

COLUMNS = 3


def over_training(found: Series, group: Group, title: str) -> Drawing | None:
    """All measures of ``group`` that anything was seen of; None where nothing was."""
    with style.styled():
        shown = [m for m in group.measures if any(found.band(arm.name, m.name) for arm in group.arms)]
        if not shown:
            return None
        rows = -(-len(shown) // COLUMNS)
        figure, axes = style.canvas(columns=COLUMNS, rows=rows, width=11.0, height=0.6 + 2.7 * rows, sharex=True)
        look = style.looks([arm.name for arm in group.arms], group.reference)
        for axis, measure in zip(axes, shown, strict=False):
            for arm in group.arms:
                _curve(axis, found, measure, arm.name, group.reference, look[arm.name])
            axis.set_title(_title(measure, group.reference))
            axis.set_xlim(left=0)
            axis.set_ylim(bottom=measure.bottom, top=measure.top)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
        for axis in axes[max(0, len(shown) - COLUMNS) : len(shown)]:
            axis.set_xlabel("step")
            axis.tick_params(labelbottom=True)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return Drawing(f"collapse-{group.name}", title, group.caption, figure)


def _title(measure: Measure, reference: str) -> str:
    return f"{measure.title}, less {reference}\u2019s" if measure.name == QUALITY else measure.title


def _curve(axis: Any, found: Series, measure: Measure, arm: str, reference: str, look: style.Look) -> None:
    quality = measure.name == QUALITY
    band = found.band(arm, measure.name, less=reference if quality else None)
    if band is None:
        return
    steps, values = band
    axis.plot(steps, values.mean(0), color=look.color, ls=look.line, marker=look.marker, ms=3.5, label=arm)
    axis.fill_between(steps, values.min(0), values.max(0), color=look.color, alpha=0.16, lw=0)
