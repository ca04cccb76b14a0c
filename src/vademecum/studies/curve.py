"""Points of the study ``compression``: one model, one part of it, one format."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from vademecum.compare import stats
from vademecum.compare.stats import Estimate
from vademecum.ops.codes import FORMATS

ROWS, WEIGHTS, BOTH = "rows", "weights", "both"
PARTS: Mapping[str, str] = {
    ROWS: "the bank's rows alone",
    WEIGHTS: "the weights of the host's linear maps alone",
    BOTH: "both",
}
WIDEST_FIRST = ("bf16", "int8", "int4", "int3", "int2")
"""Formats of the curve."""
SILENT = "silenced"
"""What stands for a format where the memory is silenced: all its bits taken away."""


@dataclass(frozen=True)
class Point:
    """One model compressed in one way.

    Attributes:
        seed: of the run.
        part: what was compressed, a key of :data:`PARTS`.
        form: name of the format; :data:`SILENT` for no memory at all.
        bits: per value of the part, scales included.
        values: how many there are in the part.
        error: of the part, ``|values - decoded| / |values|`` over all of them (Euclidean norms).
        divergence: KL divergence of its predictions from the uncompressed model's, mean over held-out tokens, in bits.
        bits_per_byte: of the held-out text.
        exact: the uncompressed model's bits per byte.
    """

    seed: int
    part: str
    form: str
    bits: float
    values: int
    error: float
    divergence: float
    bits_per_byte: float
    exact: float

    @property
    def excess(self) -> float:
        """Bits per byte more than the uncompressed model needs."""
        return self.bits_per_byte - self.exact


@dataclass(frozen=True)
class Curve:
    """All points of a study, and what they were measured on."""

    points: tuple[Point, ...]
    arm: str
    text: str
    tokens: int

    def by_seed(self, part: str, form: str, name: str) -> dict[int, float]:
        """The field or property ``name`` of Point of every seed."""
        return {p.seed: float(getattr(p, name)) for p in self.points if (p.part, p.form) == (part, form)}

    def mean(self, part: str, form: str, name: str) -> Estimate:
        """Its mean over seeds with a 95 % interval."""
        return stats.estimate(list(self.by_seed(part, form, name).values()))

    def factor(self, part: str, other: str, form: str) -> Estimate | None:
        """Natural logarithm of how many times as far ``part`` moves the predictions as ``other``, paired by seed."""
        mine, theirs = self.by_seed(part, form, "divergence"), self.by_seed(other, form, "divergence")
        if not all(value > 0 for value in (*mine.values(), *theirs.values())):
            return None
        return stats.paired(_logarithms(mine), _logarithms(theirs))

    def lead(self, part: str, other: str, form: str) -> Estimate | None:
        """Bits per value that ``part`` needs fewer for the divergence that ``other`` has in ``form``, by seed.

        The logarithm of a part's divergence is taken to be linear in bits between two formats, and beyond the last.
        """
        values: list[float] = []
        for seed, wanted in self.by_seed(other, form, "divergence").items():
            line = [
                (self.by_seed(part, each, "bits")[seed], self.by_seed(part, each, "divergence")[seed])
                for each in WIDEST_FIRST
                if FORMATS[each].bits
            ]
            if wanted <= 0 or any(divergence <= 0 for _, divergence in line):
                return None
            spans = itertools.pairwise(line)
            (b1, d1), (b2, d2) = next((span for span in spans if span[1][1] >= wanted), (line[-2], line[-1]))
            bits = b1 + (b2 - b1) * math.log(wanted / d1) / math.log(d2 / d1)
            values.append(self.by_seed(other, form, "bits")[seed] - bits)
        return stats.estimate(values) if values else None


def _logarithms(values: Mapping[int, float]) -> dict[int, float]:
    return {seed: math.log(value) for seed, value in values.items()}


def table(curve: Curve) -> str:
    """Every point as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("seed", "part", "form", "bits", "values", "error", "divergence", "bits_per_byte", "exact")
    writer.writerow(names)
    writer.writerows([getattr(point, name) for name in names] for point in curve.points)
    return out.getvalue()
