"""What the figures of both pages share: which layers are shown, panels of heat maps, bars of information."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vademecum.analysis.experts import layer_of
from vademecum.inspection import experts, slots
from vademecum.pages import style
from vademecum.pages.drawing import Drawing

SHOWN = 4  # layers in a figure of panels; all are in the CSV files

_Layer = TypeVar("_Layer", experts.Layer, slots.Layer)
_DOMAIN, _TOKEN = "#0072b2", "#d55e00"


def shown(layers: Sequence[_Layer], most: int = SHOWN) -> list[_Layer]:
    """Up to ``most`` layers, spread evenly from the first to the last."""
    if len(layers) <= most:
        return list(layers)
    return [layers[round(i * (len(layers) - 1) / (most - 1))] for i in range(most)]


def called(key: str) -> str:
    """A layer's name in a figure: "layer 3", with its kind where that is not the first of its name."""
    kind = key.split(".", 1)[0]
    return f"layer {layer_of(key)}" + (f" ({kind})" if "_" in kind or kind == "host" else "")


def panels(count: int, *, width: float, height: float) -> tuple[Figure, list[Any]]:
    """Axes for ``count`` panels of the given size, two beside each other; the axes that are left over are hidden."""
    columns = min(2, count)
    rows = math.ceil(count / columns)
    figure, axes = style.canvas(columns=columns, rows=rows, width=columns * width, height=rows * height)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def heat(
    axis: Any,
    values: NDArray[np.float64],
    *,
    low: float,
    high: float,
    columns: Sequence[str],
    rows: Sequence[str],
    digits: int | None = None,
    rotate: bool = False,
) -> Any:
    """Heat map of ``values`` ``[rows, columns]`` with named rows and columns; NaN stays empty.

    ``digits`` writes the numbers with so many decimals, None leaves them out.
    """
    image = axis.imshow(values, cmap=style.SEQUENTIAL, vmin=low, vmax=high, aspect="auto")
    every = max(1, math.ceil(len(columns) / 32))
    axis.set_xticks(range(0, len(columns), every), columns[::every], fontsize=8, rotation=90 if rotate else 0)
    every = max(1, math.ceil(len(rows) / 32))
    axis.set_yticks(range(0, len(rows), every), rows[::every], fontsize=8.5)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    if digits is not None:
        for (row, column), value in np.ndenumerate(values):
            if math.isfinite(value):
                bright = value > low + 0.55 * (high - low)
                color = "#000000" if bright else "#ffffff"
                axis.text(column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=7, color=color)
    return image


def information(layers: Sequence[experts.Layer] | Sequence[slots.Layer], *, part: str, labels: str) -> Drawing | None:
    """Bars per layer: mutual information of ``part`` with domain and token id, beside the shuffled baseline."""
    kept = [each for each in layers if each.domain is not None and each.token is not None]
    if not kept:
        return None
    figure, axes = style.canvas(columns=2, width=9.0, height=3.1)
    what: Sequence[tuple[str, str, Callable[[Any], Any]]] = (
        ("domain", _DOMAIN, lambda each: each.domain),
        ("token id", _TOKEN, lambda each: each.token),
    )
    at = np.arange(len(kept))
    for axis, (name, color, get) in zip(axes, what, strict=True):
        found = [get(each) for each in kept]
        axis.bar(at - 0.2, [one.measured for one in found], 0.38, color=color, label="measured")
        axis.bar(
            at + 0.2,
            [one.baseline for one in found],
            0.38,
            yerr=[one.spread for one in found],
            color=style.MUTED,
            ecolor=style.INK,
            capsize=3,
            label="labels shuffled",
        )
        for i, one in enumerate(found):
            axis.annotate(
                f"{one.difference:+.2f}",
                (i - 0.2, one.measured),
                ha="center",
                va="bottom",
                xytext=(0, 2),
                textcoords="offset points",
                fontsize=8,
            )
        axis.set_xticks(at, [str(layer_of(each.key)) for each in kept])
        axis.set_xlabel("layer")
        axis.set_title(f"about the {name}")
        axis.margins(y=0.16)
        axis.grid(visible=False, axis="x")
        handles, _ = axis.get_legend_handles_labels()
        axis.legend(handles, ["measured", "labels shuffled"], fontsize=8, loc="upper left", ncols=2)
        axis.set_ylim(0, 1.25 * max(max(one.measured, one.baseline) for one in found) or 1.0)
    axes[0].set_ylabel("mutual information, nats")
    domain = max(kept, key=lambda each: each.domain.difference if each.domain else 0.0)
    token = max(kept, key=lambda each: each.token.difference if each.token else 0.0)
    assert domain.domain is not None
    assert token.token is not None
    return Drawing(
        f"information-{part}",
        f"{labels} tells up to {domain.domain.difference:.2f} of {domain.domain.label_entropy:.2f} nats about the "
        f"domain "
        f"({called(domain.key)}) and {token.token.difference:.2f} of {token.token.label_entropy:.2f} about the token "
        f"({called(token.key)})",
        f"Mutual information of a token's {labels.lower()} with its domain, and with its id. Grey: the same after the "
        "labels were shuffled over the tokens (mean of ten shuffles, bar: their standard deviation), which is what few "
        "tokens for many labels give by chance. The number on a bar is the difference, the part that means "
        "something and the one in the title, beside all there is to tell: the entropy of the label. It is about "
        "association: that a token id and a domain go together in the text, so that each "
        "explains part of the other, is not taken out.",
        figure,
    )
