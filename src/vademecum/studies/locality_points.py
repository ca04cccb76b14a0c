"""Points of the study ``locality``: one model that reads from a file, within one budget of memory."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vademecum.compare import stats
from vademecum.compare.stats import Estimate

BANK, ONE, PER_LAYER, TOTAL = "bank", "experts-one", "experts-layer", "experts-total"
READERS: Mapping[str, str] = {
    BANK: "rows of the bank",
    ONE: "experts, one cache for all layers",
    PER_LAYER: "experts, a cache for every layer",
    TOTAL: "experts, one cache, equal memory in all",
}
"""What is read and how it is kept; the least recently used goes first everywhere.

The model with the bank keeps its dense feed-forward in memory beside the bank's cache, and that of the experts has
none: :data:`TOTAL` gives those bytes to the experts' cache as well.
"""
RESIDENT = math.inf
"""The budget of a model that is in memory whole."""


@dataclass(frozen=True)
class Point:
    """One model read within one budget.

    Attributes:
        seed: of the training, and of where in the held-out text it is read.
        pair: which bank is compared with which experts.
        mode: how the text is read, a name of a :class:`vademecum.studies.locality_reads.Mode`.
        reader: a key of :data:`READERS`.
        budget: share of what it takes to keep the larger of the pair's two tables whole; :data:`RESIDENT` for a model
            in memory.
        budget_bytes: what may be held, the same for all but :data:`TOTAL`; 0 for a model in memory.
        rest_bytes: parameters that are in memory beside what is in the file.
        offloaded_bytes: bytes of the parameters in the file.
        item_bytes: bytes of one row or one expert.
        tokens: that were read, after the cache was filled.
        asked: rows or experts that were asked for, each once in a forward.
        missed: those of them that were not in memory.
        moved: bytes that were read from the file.
        held: most bytes in memory: the cache with its bookkeeping, and the copy of rows that a forward works on.
        seconds: that it took.
    """

    seed: int
    pair: str
    mode: str
    reader: str
    budget: float
    budget_bytes: int
    rest_bytes: int
    offloaded_bytes: int
    item_bytes: int
    tokens: int
    asked: int
    missed: int
    moved: int
    held: int
    seconds: float

    @property
    def moved_per_token(self) -> float:
        """Bytes moved per token."""
        return self.moved / self.tokens

    @property
    def asked_per_token(self) -> float:
        """Bytes that would be moved per token with no cache."""
        return self.asked * self.item_bytes / self.tokens

    @property
    def normalised(self) -> float:
        """Bytes moved per token over bytes in the file."""
        return self.moved_per_token / self.offloaded_bytes

    @property
    def hit_rate(self) -> float:
        """Share of what was asked for that was in memory; NaN for a model in memory, which asks for nothing."""
        return 1 - self.missed / self.asked if self.asked else math.nan

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds

    @property
    def within(self) -> bool:
        """Whether what was held fits the budget."""
        return self.held <= self.budget_bytes


@dataclass(frozen=True)
class Points:
    """All points of a study."""

    points: tuple[Point, ...]

    def by_seed(self, pair: str, mode: str, reader: str, budget: float, name: str) -> dict[int, float]:
        """The field or property ``name`` of every seed's point."""
        return {
            p.seed: float(getattr(p, name))
            for p in self.points
            if (p.pair, p.mode, p.reader, p.budget) == (pair, mode, reader, budget)
        }

    def mean(self, pair: str, mode: str, reader: str, budget: float, name: str) -> Estimate | None:
        """Its mean over seeds with a 95 % interval; None where nothing was measured."""
        found = list(self.by_seed(pair, mode, reader, budget, name).values())
        return stats.estimate(found) if found else None

    def budgets(self, pair: str, mode: str) -> list[float]:
        """Budgets that were measured, ascending, without the resident model's."""
        return sorted({p.budget for p in self.points if (p.pair, p.mode) == (pair, mode)} - {RESIDENT})

    def rival(self, pair: str, mode: str, budget: float) -> str | None:
        """The way of keeping experts that moves fewer bytes here, on average: the stronger opponent."""
        found = {
            reader: estimate.mean
            for reader in (ONE, PER_LAYER)
            if (estimate := self.mean(pair, mode, reader, budget, "moved_per_token"))
        }
        return min(found, key=lambda reader: found[reader]) if found else None

    def fewer(self, pair: str, mode: str, budget: float, rival: str | None = None) -> Estimate | None:
        """Log10 of how many times as many bytes ``rival`` moves, paired by seed; None where one is 0.

        Without ``rival`` it is the better way of experts with equal caches.
        """
        rival = rival or self.rival(pair, mode, budget)
        if rival is None:
            return None
        mine, theirs = (self.by_seed(pair, mode, reader, budget, "moved_per_token") for reader in (BANK, rival))
        if not all(value > 0 for value in (*mine.values(), *theirs.values())):
            return None
        return stats.paired(
            {seed: math.log10(value) for seed, value in theirs.items()},
            {seed: math.log10(value) for seed, value in mine.items()},
        )

    def difference(self, pair: str, mode: str, budget: float, name: str) -> Estimate | None:
        """``name`` of the bank less that of experts (the better way), paired by seed."""
        rival = self.rival(pair, mode, budget)
        if rival is None:
            return None
        mine, theirs = (self.by_seed(pair, mode, reader, budget, name) for reader in (BANK, rival))
        return stats.paired(mine, theirs)

    def kept(self, pair: str, mode: str, reader: str, budget: float) -> dict[int, float]:
        """Tokens per second of every seed over those of the same model in memory."""
        resident = self.by_seed(pair, mode, BANK if reader == BANK else ONE, RESIDENT, "speed")
        mine = self.by_seed(pair, mode, reader, budget, "speed")
        return {seed: value / resident[seed] for seed, value in mine.items() if seed in resident}

    def slowing(self, pair: str, mode: str, reader: str, budget: float) -> Estimate | None:
        """The mean of :meth:`kept`."""
        found = list(self.kept(pair, mode, reader, budget).values())
        return stats.estimate(found) if found else None

    def keeping(self, pair: str, mode: str, budget: float) -> Estimate | None:
        """:meth:`kept` of the bank less that of experts (the better way), paired by seed."""
        rival = self.rival(pair, mode, budget)
        if rival is None:
            return None
        return stats.paired(self.kept(pair, mode, BANK, budget), self.kept(pair, mode, rival, budget))


FIELDS = tuple(field.name for field in dataclasses.fields(Point))
DERIVED = ("moved_per_token", "asked_per_token", "normalised", "hit_rate", "speed")


def table(found: Points) -> str:
    """Every point as CSV, with what follows from it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*FIELDS, *DERIVED))
    writer.writerows([getattr(point, name) for name in (*FIELDS, *DERIVED)] for point in found.points)
    return out.getvalue()


def to_dicts(points: Sequence[Point]) -> list[dict[str, object]]:
    """Plain data that JSON can hold; a resident model's budget is null."""
    return [{**dataclasses.asdict(p), "budget": None if p.budget == RESIDENT else p.budget} for p in points]


def from_dicts(values: Sequence[Mapping[str, object]]) -> list[Point]:
    """The inverse of :func:`to_dicts`."""
    return [
        Point(**{**value, "budget": RESIDENT if value["budget"] is None else value["budget"]})  # type: ignore[arg-type]
        for value in values
    ]
