"""Figures of the slots' page; each says in its title what is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vademecum.inspection import drawing
from vademecum.inspection.slots import Findings, Layer, gate_name
from vademecum.pages import style
from vademecum.pages.drawing import Drawing

_COLUMNS = 24  # head x gate columns that a panel holds; with more, heads are averaged


def gates(found: Findings) -> Drawing | None:
    """Heat maps: domains x gates, mean gate."""
    layers = drawing.shown(found.layers)
    names = found.seen.domains
    averaged = any(each.heads * (each.slots + 1) > _COLUMNS for each in layers)
    tables = [_table(each, averaged) for each in layers]
    figure, axes = drawing.panels(len(layers), width=5.6, height=1.35 + 0.3 * len(names))
    low = min(float(np.nanmin(values)) for values, _ in tables)
    high = max(float(np.nanmax(values)) for values, _ in tables)
    for axis, each, (values, columns) in zip(axes, layers, tables, strict=True):
        digits = 2 if len(columns) <= 12 else None
        drawing.heat(axis, values, low=low, high=high, columns=columns, rows=names, digits=digits, rotate=True)
        axis.set_title(drawing.called(each.key))
        for edge in range(each.slots + 1, len(columns), each.slots + 1):
            axis.axvline(edge - 0.5, color=style.PAPER, lw=2.5)
    figure.colorbar(axes[-1].images[0], ax=axes, label="mean gate (1: neutral)", shrink=0.9)
    most = max(found.layers, key=lambda each: float(each.range_by_domain().max()))
    ranges = most.range_by_domain()
    head, gate = np.unravel_index(int(ranges.argmax()), tuple(ranges.shape))
    column = most.gates[:, head, gate]
    wide, shut = names[int(column.argmax())], names[int(column.argmin())]
    return Drawing(
        "gates",
        f"The gate on {_on(int(gate))} of head {head} in {drawing.called(most.key)} differs most by domain: "
        f"{float(column.max()):.2f} in {wide}, {float(column.min()):.2f} in {shut}",
        "Mean gate by domain and head ("
        + ("heads averaged, " if averaged else "h0 is the first head, ")
        + "own: the gate on the host's own value). 0 is shut, 1 neutral, 2 wide open. Slots carry no order, and layers "
        "are not related by their number. A mean hides what single tokens do: see the tokens below."
        + (f" {len(layers)} of {len(found.layers)} layers are drawn." if len(layers) < len(found.layers) else ""),
        figure,
    )


def information(found: Findings) -> Drawing | None:
    """Bars per layer: mutual information of the strongest slot against its shuffled baseline."""
    return drawing.information(found.layers, part="slot", labels="Strongest slot")


def strongest(found: Findings) -> Drawing | None:
    """Heat maps: domains x slots, share of tokens whose strongest slot it is."""
    layers = [each for each in drawing.shown(found.layers) if each.slots > 1]
    if not layers:
        return None
    names = found.seen.domains
    figure, axes = drawing.panels(len(layers), width=4.4, height=0.9 + 0.3 * len(names))
    shares = [100 * each.leads.numpy() for each in layers]
    for axis, each, share in zip(axes, layers, shares, strict=True):
        columns = [str(i) for i in range(each.slots)]
        digits = 0 if each.slots <= 16 else None
        drawing.heat(axis, share, low=0, high=100, columns=columns, rows=names, digits=digits)
        axis.set_title(drawing.called(each.key))
        axis.set_xlabel("slot")
    figure.colorbar(axes[-1].images[0], ax=axes, label="% of the domain's tokens", shrink=0.9)
    busiest = [float(np.mean(share.max(1))) for share in shares]
    at = int(np.argmin(busiest))
    return Drawing(
        "strongest",
        f"The busiest slot is the strongest for {min(busiest):.0f} % of a domain's tokens in "
        f"{drawing.called(layers[at].key)} and for {max(busiest):.0f} % in "
        f"{drawing.called(layers[int(np.argmax(busiest))].key)}",
        "For which share of a domain's tokens a slot has the largest gate (heads averaged). One bright column means "
        "that one slot is always let through most, whatever the text; a row that differs from the others is a domain "
        "with slots of its own. All slots are mixed at every token: strongest is not alone.",
        figure,
    )


FIGURES: Sequence[Callable[[Findings], Drawing | None]] = (gates, strongest, information)
"""Figures in reading order; one that has nothing to show is None."""


def draw_all(found: Findings) -> list[Drawing]:
    """Every figure that has something to show."""
    with style.styled():
        return [one for one in (figure(found) for figure in FIGURES) if one is not None]


def _on(gate: int) -> str:
    return "the host's own value" if gate == 0 else gate_name(gate)


def _table(each: Layer, averaged: bool) -> tuple[np.ndarray, list[str]]:
    """Gates ``[D, columns]`` and the columns' names."""
    names = [gate_name(m) for m in range(each.slots + 1)]
    if averaged:
        return each.gates.mean(1).numpy(), names
    return each.gates.flatten(1).numpy(), [f"h{h} {name}" for h in range(each.heads) for name in names]
