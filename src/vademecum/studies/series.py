"""What the runs of a comparison saw inside while they trained, as numbers over steps."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vademecum.compare import runner, stats
from vademecum.compare.plan import Plan
from vademecum.compare.stats import Estimate
from vademecum.pages.drawing import Floats
from vademecum.training import metrics

QUALITY = "bits_per_byte"


@dataclass(frozen=True)
class Line:
    """One evaluation of one run: held-out bits per byte, and ``inside[layer key][name]``."""

    arm: str
    seed: int
    step: int
    bits_per_byte: float
    inside: Mapping[str, Mapping[str, float]]

    def value(self, name: str) -> float | None:
        """The measure's mean over the layers that have it; None where none has."""
        if name == QUALITY:
            return self.bits_per_byte
        found = [numbers[name] for numbers in self.inside.values() if name in numbers]
        return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class Series:
    """All evaluations of a comparison on one source, and which of its runs were given up (``arm, seed``)."""

    lines: tuple[Line, ...]
    diverged: tuple[tuple[str, int], ...] = ()

    def curves(self, arm: str, name: str) -> dict[int, tuple[list[int], list[float]]]:
        """Steps and values of ``name`` by seed; seeds without it are left out."""
        found: dict[int, tuple[list[int], list[float]]] = {}
        for line in self.lines:
            value = line.value(name) if line.arm == arm else None
            if value is not None:
                steps, values = found.setdefault(line.seed, ([], []))
                steps.append(line.step)
                values.append(value)
        return found

    def band(self, arm: str, name: str, less: str | None = None) -> tuple[list[int], Floats] | None:
        """Steps that all seeds share and values ``[seeds, steps]``, less another arm's at the same seed where asked."""
        mine = self.curves(arm, name)
        other = self.curves(less, name) if less is not None else {}
        seeds = [seed for seed in mine if less is None or seed in other]
        if not seeds:
            return None
        shared = set.intersection(*(set(of[seed][0]) for seed in seeds for of in ([mine, other] if less else [mine])))
        steps = sorted(shared)
        if not steps:
            return None
        rows = [[_at(mine[seed], step) - (_at(other[seed], step) if less else 0.0) for step in steps] for seed in seeds]
        return steps, np.array(rows)

    def last(self, arm: str, name: str) -> dict[int, float]:
        """The last value of each seed."""
        return {seed: values[-1] for seed, (_, values) in self.curves(arm, name).items()}

    def difference(self, arm: str, reference: str, name: str) -> Estimate | None:
        """Last value less the reference's, paired by seed; None where they share none."""
        return stats.paired(self.last(arm, name), self.last(reference, name))


def _at(curve: tuple[Sequence[int], Sequence[float]], step: int) -> float:
    return curve[1][curve[0].index(step)]


def read(plan: Plan, folder: Path) -> Series:
    """The series of the comparison ``plan`` in ``folder``, on its first source; runs that diverged are named apart."""
    source = plan.data[0]
    lines: list[Line] = []
    diverged: list[tuple[str, int]] = []
    for arm in plan.arms_on(source):
        for seed in plan.seeds:
            place = runner.run_folder(folder, source, seed, arm.name)
            result = json.loads((place / runner.RESULT).read_text(encoding="utf-8"))
            if result.get("diverged") is not None:
                diverged.append((arm.name, seed))
                continue
            lines += [_line(arm.name, seed, each) for each in metrics.read(place)[1]]
    return Series(tuple(lines), tuple(diverged))


def _line(arm: str, seed: int, given: Mapping[str, Any]) -> Line:
    return Line(arm, seed, given["step"], given["bits_per_byte"], given.get("inside", {}))


def table(series: Series) -> str:
    """Everything as CSV: arm, seed, step, layer (empty for the whole model), measure, value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("arm", "seed", "step", "layer", "measure", "value"))
    for line in series.lines:
        writer.writerows(_rows(line))
    return out.getvalue()


def _rows(line: Line) -> Iterator[tuple[object, ...]]:
    yield line.arm, line.seed, line.step, "", QUALITY, repr(line.bits_per_byte)
    for layer, numbers in line.inside.items():
        for name, value in numbers.items():
            yield line.arm, line.seed, line.step, layer, name, repr(value)
