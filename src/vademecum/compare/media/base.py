"""The surface that a medium shows to a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vademecum.data import Material

if TYPE_CHECKING:
    from vademecum.compare.plan import Plan
    from vademecum.pages.drawing import Drawing
    from vademecum.training import Run


@dataclass(frozen=True)
class Materials:
    """What was read.

    ``corpora`` and ``names`` (what results call them) are by the source that was asked for; ``notes`` are sentences on
    what is not as it was asked for.
    """

    corpora: Mapping[str, Material]
    names: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Words:
    """What the report says of a medium.

    ``model`` follows "one small"; ``shown`` is the heading of its samples; ``measured`` explains the measure, with
    ``{evaluated}`` for how much was read; ``limits`` are lines on what a comparison does not show.
    """

    model: str
    shown: str
    measured: str
    limits: tuple[str, ...]


class Medium(Protocol):
    """Where a comparison's material comes from, and what is shown of a model beside its bits per byte."""

    @property
    def words(self) -> Words:
        """What the report says."""
        ...

    def materials(self, plan: Plan) -> Materials:
        """Everything that ``plan`` reads, ready; a source that gives what another gave is left out with a note."""
        ...

    def material(self, plan: Plan, source: str) -> Material:
        """One source, without a progress bar."""
        ...

    def measured(self, run: Run, plan: Plan, seed: int) -> dict[str, Any]:
        """What is kept of a finished run beside the numbers that all media have, as plain data."""
        ...

    def collected(
        self,
        plan: Plan,
        runs: Sequence[Mapping[str, Any]],
        materials: Materials,
        places: Mapping[tuple[str, str, int], Path],
    ) -> dict[str, Any]:
        """Samples side by side, as plain data for ``results.json``.

        ``runs`` hold what :meth:`measured` gave; ``places`` are their folders by (source's name, arm, seed).
        """
        ...

    def drawings(self, found: Mapping[str, Any]) -> list[Drawing]:
        """Figures of samples, for :meth:`section` and to be written beside the page."""
        ...

    def section(self, found: Mapping[str, Any], drawings: Sequence[Drawing]) -> str:
        """The report's section of samples, as HTML; empty where there are none."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the ``form`` that :func:`vademecum.compare.media.from_dict` reads."""
        ...
