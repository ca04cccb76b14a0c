"""What every figure is made into, and the heat map that several of them are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vademecum.pages import style

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name, a title that says what is seen and a caption that says how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure


def heat_map(
    axis: Any, values: Floats, *, low: float, high: float, xlabel: str, rows: Sequence[object], labels: bool
) -> Any:
    """Draw ``values`` ``[rows, columns]`` on ``axis``, columns numbered, rows named; ``labels`` writes the numbers."""
    image = axis.imshow(values, cmap=style.SEQUENTIAL, vmin=low, vmax=high, aspect="auto")
    axis.set_xticks(range(values.shape[1]), [str(i) for i in range(values.shape[1])])
    axis.set_yticks(range(len(rows)), [str(row) for row in rows])
    axis.set_xlabel(xlabel)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    if labels:
        for (row, column), value in np.ndenumerate(values):
            bright = value > low + 0.55 * (high - low)
            axis.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="#000000" if bright else "#ffffff",
            )
    return image
