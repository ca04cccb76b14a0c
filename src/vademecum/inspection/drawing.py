"""What the figures of both pages share: which layers are shown, panels of heat maps, bars of information."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vademecum.analysis.experts import layer_of
from vademecum.analysis.specialisation import Information
from vademecum.inspection import experts, slots
from vademecum.pages import style
from vademecum.pages.drawing import Drawing

SHOWN = 4  # layers in a figure of panels; all are in the CSV files

_Layer = TypeVar("_Layer", experts.Layer, slots.Layer)
_COLOURS = ("#0072b2", "#009e73", "#d55e00")


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


def told(each: experts.Layer | slots.Layer) -> dict[str, Information | None]:
    """What a layer's choice tells, by what it is about."""
    return {"domain": each.domain, "domain, token id known": each.beyond, "token id": each.token}


def information(layers: Sequence[experts.Layer] | Sequence[slots.Layer], *, part: str, labels: str) -> Drawing | None:
    """Bars per layer: mutual information of ``part`` with domain and token id, beside the shuffled baseline."""
    found: dict[str, dict[str, Information]] = {}
    for each in layers:
        for about, one in told(each).items():
            if one is not None:
                found.setdefault(about, {})[each.key] = one
    if not found:
        return None
    figure, axes = style.canvas(columns=len(found), width=11.0, height=3.1)
    for axis, (about, by_layer), color in zip(axes, found.items(), _COLOURS, strict=True):
        _bars(axis, by_layer, color)
        axis.set_title(f"about the {about}")
    axes[0].set_ylabel("mutual information, nats")
    most = {about: max(by_layer.items(), key=lambda pair: pair[1].difference) for about, by_layer in found.items()}
    (layer, domain), (_, beyond), (_, token) = most.values()
    return Drawing(
        f"information-{part}",
        f"{labels} tells up to {domain.difference:.2f} of {domain.label_entropy:.2f} nats about the domain "
        f"({called(layer)}), {beyond.difference:.2f} of {beyond.label_entropy:.2f} beyond what the token says, "
        f"and {token.difference:.2f} of {token.label_entropy:.2f} about the token",
        f"Mutual information of a token's {labels.lower()} with its domain, with its domain where its id is known "
        "already, and with its id. Grey: the same after the labels were shuffled over the tokens (in the middle: "
        "over the tokens with the same id), mean of ten shuffles and their standard deviation, which is what few "
        "tokens for many labels give by chance. The number on a bar is the difference, the part that means something "
        "and the one in the title, beside all there is to tell: the entropy of the label. The middle panel is no "
        "part of the left one: it is how far the same id is treated differently from domain to domain, which the "
        "tokens before it make possible.",
        figure,
    )


def _bars(axis: Any, by_layer: Mapping[str, Information], color: str) -> None:
    at, ones = np.arange(len(by_layer)), list(by_layer.values())
    axis.bar(at - 0.2, [one.measured for one in ones], 0.38, color=color, label="measured")
    axis.bar(at + 0.2, [one.baseline for one in ones], 0.38, color=style.MUTED, label="labels shuffled")
    lines = {"fmt": "none", "ecolor": style.INK, "capsize": 3, "elinewidth": 1}
    axis.errorbar(at + 0.2, [one.baseline for one in ones], yerr=[one.spread for one in ones], **lines)
    for i, one in enumerate(ones):
        place = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 8}
        axis.annotate(f"{one.difference:+.2f}", (i - 0.2, one.measured), **place)
    axis.set_xticks(at, [str(layer_of(key)) for key in by_layer])
    axis.set_xlabel("layer")
    axis.grid(visible=False, axis="x")
    axis.set_ylim(0, 1.28 * max(max(one.measured, one.baseline) for one in ones) or 1.0)
    axis.legend(fontsize=8, loc="upper left", ncols=2)
