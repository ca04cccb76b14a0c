"""Questions as data: one arm against another, answered by their paired difference over seeds and by nothing else."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vademecum import files
from vademecum.compare import claims, stats
from vademecum.compare.results import Run, diverged_words, estimate_from
from vademecum.compare.stats import Estimate


@dataclass(frozen=True, kw_only=True)
class Question:
    """Whether ``arm`` is better than ``against``, in the words of who asks; phrased so that "better" means yes."""

    text: str
    arm: str
    against: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as kept in ``plan.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Question:
        """The inverse of :meth:`to_dict`."""
        return cls(text=values["text"], arm=values["arm"], against=values["against"])


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question on one source. ``difference`` is the arm's bits per byte less the other's, paired by seed.

    ``verdict`` is one of :mod:`vademecum.compare.stats`', or says that seeds diverged.
    """

    data: str
    text: str
    arm: str
    against: str
    seeds: int
    difference: Estimate | None
    verdict: str

    @property
    def words(self) -> str:
        """Yes, no, not shown, or no claim."""
        return _WORDS.get(self.verdict, "No claim")

    @property
    def sentence(self) -> str:
        """The answer with its interval: a direction only where the interval excludes zero."""
        found = self.difference
        if self.verdict not in _WORDS or found is None or found.half is None:
            return f"{self.words}: {self.verdict.removesuffix(': no claim')}."
        if self.verdict == stats.NO_DIFFERENCE:
            size = f"{claims.number(found.mean, signed=True)} \u00b1 {claims.number(found.half)}"
            return f"{self.words}: {self.arm} less {self.against} is {size} bits per byte."
        size = f"{claims.number(abs(found.mean))} \u00b1 {claims.number(found.half)}"
        side = "below" if self.verdict == stats.BETTER else "above"
        return f"{self.words}: {self.arm} ends {size} bits per byte {side} {self.against}."


_WORDS: Mapping[str, str] = {stats.BETTER: "Yes", stats.WORSE: "No", stats.NO_DIFFERENCE: "Not shown"}


def ask(questions: Sequence[Question], runs: Iterable[Run]) -> list[Answer]:
    """Every question on every source on which both of its arms were run; ``runs`` hold those that diverged too."""
    values: dict[str, dict[str, dict[int, float]]] = {}
    lost: dict[tuple[str, str], int] = {}
    for run in runs:
        of = values.setdefault(run["data"], {}).setdefault(run["arm"], {})
        if run.get("diverged") is None:
            of[run["seed"]] = run["bits_per_byte"]
        else:
            lost[run["data"], run["arm"]] = lost.get((run["data"], run["arm"]), 0) + 1
    return [
        _answer(question, data, arms, lost.get((data, question.arm), 0) + lost.get((data, question.against), 0))
        for data, arms in values.items()
        for question in questions
        if question.arm in arms and question.against in arms
    ]


def _answer(question: Question, data: str, arms: Mapping[str, Mapping[int, float]], lost: int) -> Answer:
    difference = stats.paired(arms[question.arm], arms[question.against])
    return Answer(
        data=data,
        text=question.text,
        arm=question.arm,
        against=question.against,
        seeds=0 if difference is None else difference.n,
        difference=difference,
        verdict=f"{diverged_words(lost)}: no claim" if lost else stats.verdict(difference),
    )


def read(results: Mapping[str, Any]) -> list[Answer]:
    """The answers in ``results.json``, where they are plain data; none in those of an earlier version."""
    return [
        Answer(**{**each, "difference": None if each["difference"] is None else estimate_from(each["difference"])})
        for each in results.get("answers", ())
    ]


COLUMNS = ("data", "question", "arm", "against", "seeds", "difference", "interval", "verdict", "answer")
"""Columns of ``answers.csv``: the difference is paired, in bits per byte, ``interval`` half of its 95 % interval."""


def write(folder: Path, answers: Sequence[Answer]) -> None:
    """Write ``answers.csv`` into ``folder``; nothing where nothing was asked."""
    if answers:
        files.write_file(folder / "answers.csv", to_csv(answers))


def to_csv(answers: Sequence[Answer]) -> str:
    """The answers as CSV with :data:`COLUMNS`; an empty field is a value that does not exist."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in answers:
        mean = "" if each.difference is None else each.difference.mean
        half = "" if each.difference is None or each.difference.half is None else each.difference.half
        writer.writerow(
            [each.data, each.text, each.arm, each.against, each.seeds, mean, half, each.verdict, each.sentence]
        )
    return out.getvalue()
