"""Settings of the ways to write facts, chosen on facts of their own before anything is measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vademecum import files
from vademecum.studies.editing_methods import Method

#: Folder of what was tried, a file for each method.
TUNED = "tuned"
#: Measures that are weighed against each other: of what shall hold, and of what shall stay.
HOLDS, STAYS = ("efficacy", "paraphrase, all"), ("same subject", "neighbours")
Measure = Callable[[Method], Mapping[str, Any]]


def tuned(method: Method, out: Path, measure: Measure) -> Method:
    """``method`` with those of its settings that do best; what was tried lies in ``out`` and is not tried again.

    Args:
        method: with one setting or several.
        out: the study's folder.
        measure: gives a candidate's scores on facts about subjects that the study does not measure.
    """
    candidates = method.candidates()
    if len(candidates) == 1:
        return candidates[0]
    path = out / TUNED / f"{method.name}.json"
    tried: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    # What was tried of other settings, as by another version, is no candidate's.
    tried = tried if [one["settings"] for one in tried] == [dict(c.settings) for c in candidates[: len(tried)]] else []
    for candidate in candidates[len(tried) :]:
        scores = measure(candidate)
        line = {"settings": dict(candidate.settings), "weighed": weighed(scores)}
        tried.append(line | {name: scores[name] for name in (*HOLDS, *STAYS)})
        files.write_file(path, json.dumps(tried, indent=1) + "\n")
    best = max(range(len(candidates)), key=lambda number: tried[number]["weighed"])
    return candidates[best]


def weighed(scores: Mapping[str, Any]) -> float:
    """Harmonic mean of the means of :data:`HOLDS` and of :data:`STAYS`, so that neither alone is worth anything.

    ROME's evaluation weighs by a harmonic mean, too (arXiv:2202.05262, section 3.4).
    """
    both = [[scores[name] for name in names if scores[name] is not None] for names in (HOLDS, STAYS)]
    return float(statistics.harmonic_mean([statistics.fmean(one) for one in both if one]))


def chosen(out: Path) -> dict[str, dict[str, Any]]:
    """What was chosen for each method in a study's folder, by the method's name."""
    found = {}
    for path in sorted((out / TUNED).glob("*.json")):
        found[path.stem] = max(json.loads(path.read_text(encoding="utf-8")), key=lambda one: float(one["weighed"]))
    return found
