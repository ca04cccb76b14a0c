"""What a study shows in one figure: arms that belong together, and what is measured on them."""

from __future__ import annotations

from dataclasses import dataclass

from vademecum.compare.arms import Arm


@dataclass(frozen=True)
class Measure:
    """One panel.

    Attributes:
        name: what it is called in an evaluation's ``inside``, or ``bits_per_byte``.
        short: its name in a sentence.
        title: what stands above its panel.
        lower: what a value below another's means, for a sentence.
        higher: what a value above another's means.
        good: "high" or "low" where one direction is what one wants, "" where neither is.
        bottom: where its axis begins, None for where the values do.
        top: where its axis ends, likewise.
    """

    name: str
    short: str
    title: str
    lower: str
    higher: str
    good: str = ""
    bottom: float | None = None
    top: float | None = None


@dataclass(frozen=True)
class Group:
    """Arms that are shown in one figure.

    Attributes:
        name: part of the figure's file name.
        title: heading of the section.
        about: what is asked, for the reader of the page.
        reference: the arm that the others are compared with.
        arms: the arms, the reference among them.
        measures: the panels; the first one's last values stand in the figure's title.
        caption: how the figure is read.
    """

    name: str
    title: str
    about: str
    reference: str
    arms: tuple[Arm, ...]
    measures: tuple[Measure, ...]
    caption: str

    @property
    def headline(self) -> Measure:
        """The measure that the figure's title speaks of."""
        return self.measures[0]
