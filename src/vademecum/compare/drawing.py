"""What all figures share: their input, their output, and how an arm looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vademecum.compare import style
from vademecum.compare.results import Row

Results = Mapping[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name, a title that says what is seen and a caption that says how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure


def rows_on(results: Results, data: str) -> list[Row]:
    """The table's rows on one source."""
    return [row for row in results["rows"] if row.data == data]


def looks(results: Results) -> dict[str, style.Look]:
    """How each arm is drawn."""
    return style.looks(list(results["arms"]), results["plan"]["baseline"])
