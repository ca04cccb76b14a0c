"""What all figures of a comparison share: their input, and how an arm looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vademecum.compare.results import Row
from vademecum.pages import style

Results = Mapping[str, Any]


def rows_on(results: Results, data: str) -> list[Row]:
    """The table's rows on one source."""
    return [row for row in results["rows"] if row.data == data]


def looks(results: Results) -> dict[str, style.Look]:
    """How each arm is drawn."""
    return style.looks(list(results["arms"]), results["plan"]["baseline"])
