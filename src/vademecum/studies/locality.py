"""What a bounded memory has to move for a shared bank and for experts: the study ``locality``.

Both keep their parameters in a file. A bank's row is read by its token id; an expert is read when a trained router
chose it. Both have the same bytes of memory to keep what was read last, and read the same held-out text.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vademecum import data, files
from vademecum.compare import commands, runner
from vademecum.compare.arms import Arm
from vademecum.compare.plan import Plan
from vademecum.compare.progress import progress
from vademecum.studies import locality_page, locality_reads
from vademecum.studies.locality_points import READERS, Point, Points, from_dicts, table, to_dicts
from vademecum.studies.locality_reads import MODES
from vademecum.training import Recipe

COMPARISON = "compare"
"""Folder of the comparison that trains the arms, inside the study's own."""
MEASURED = "measured"
"""Folder of what was measured, a file per seed."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A bank and experts of about as many bytes: names of two arms."""

    bank: str
    experts: str

    @property
    def name(self) -> str:
        """``bank-4 | experts-16``."""
        return f"{self.bank} | {self.experts}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured.

    Attributes:
        plan: trains the arms.
        pairs: which of them are compared.
        budgets: of memory, as shares of what it takes to keep the larger of a pair's two tables whole.
        passages: measured passages of the recipe's length, per text that is read.
        warm: passages that fill the caches before.
    """

    plan: Plan
    pairs: tuple[Pair, ...]
    budgets: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 1.0)
    passages: int = 2
    warm: int = 32

    def __post_init__(self) -> None:
        wrong = [each for each in self.budgets if not (math.isfinite(each) and each > 0)]
        if wrong or not self.budgets or len(set(self.budgets)) != len(self.budgets):
            raise ValueError(f"budgets={self.budgets} were given; expected different shares above 0, such as 0.1, 1.")
        if self.passages < 1 or self.warm < 1:
            raise ValueError(f"passages={self.passages}, warm={self.warm} were given; expected 1 or more of both.")

    def measuring(self) -> dict[str, Any]:
        """What decides the numbers of a seed, beside its trained models; as plain as JSON gives it back."""
        return {
            "budgets": list(self.budgets),
            "passages": self.passages,
            "warm": self.warm,
            "seeds": list(self.plan.seeds),
            "readers": list(READERS),
            "modes": [dataclasses.asdict(mode) for mode in MODES],
        }


def _experts(count: int) -> Arm:
    note = f"{count} experts in every layer, 4 of them per token, each a quarter as wide as the dense feed-forward"
    return Arm(name=f"experts-{count}", kinds=(f"moe:experts={count},top_k=4",), note=note)


def _bank(slots: int) -> Arm:
    note = f"one bank of {slots} slots per token id, shared by all layers"
    return Arm(name=f"bank-{slots}", kinds=(f"move:slots={slots}",), note=note)


_SMALL = Settings(
    plan=Plan(
        data=("factbook",),
        arms=(Arm(name="dense", note="the host alone"), _experts(16), _bank(4), _experts(64), _bank(16)),
        seeds=(0, 1, 2),
        size=4,
        vocab_size=4096,
        prompts=0,
        heldout_tokens=60_000,
        recipe=Recipe(
            steps=400, batch=4, length=256, eval_every=100, eval_tokens=20_000, watch_tokens=0, checkpoint_every=100,
            keep=1, seed=0,
        ),
    ),
    pairs=(Pair(bank="bank-4", experts="experts-16"), Pair(bank="bank-16", experts="experts-64")),
)  # fmt: skip

PRESETS: Mapping[str, Settings] = {
    "smoke": Settings(
        plan=dataclasses.replace(
            _SMALL.plan,
            arms=(Arm(name="dense", note="the host alone"), _experts(16), _bank(4)),
            seeds=(0, 1),
            size=2,
            vocab_size=1024,
            heldout_tokens=8_192,
            recipe=dataclasses.replace(_SMALL.plan.recipe, steps=40, length=128, eval_every=20, eval_tokens=2_048),
        ),
        pairs=(Pair(bank="bank-4", experts="experts-16"),),
        budgets=(0.1, 0.5, 1.0),
        passages=1,
        warm=8,
    ),
    "small": _SMALL,
    "full": dataclasses.replace(
        _SMALL,
        plan=dataclasses.replace(
            _SMALL.plan,
            seeds=(0, 1, 2, 3, 4),
            recipe=dataclasses.replace(_SMALL.plan.recipe, steps=1200, batch=8, checkpoint_every=200),
        ),
        passages=8,
    ),
}
"""Sizes of the study: ``smoke`` takes a minute or two, ``small`` about an hour, most of it training."""


def settings_of(
    preset: str = "small",
    *,
    seeds: int | None = None,
    data: str | None = None,
    steps: int | None = None,
    budgets: Sequence[float] | None = None,
    passages: int | None = None,
) -> Settings:
    """A preset with what is given changed; None leaves the preset's value.

    Raises:
        ValueError: an unknown preset or a wrong setting.
    """
    plan = commands.plan_of(
        preset,
        seeds=seeds,
        data=(data,) if data else None,
        recipe={"steps": steps},
        presets={name: each.plan for name, each in PRESETS.items()},
    )
    given: dict[str, Any] = {"budgets": tuple(budgets) if budgets else None, "passages": passages}
    changed = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(PRESETS[preset], plan=plan, **changed)


def run(
    settings: Settings, out: Path, *, command: str = "", fall_back: bool = False, echo: Callable[[str], None] = print
) -> Path:
    """Train and measure what is not in ``out`` yet; write ``report.html``, ``figures/``, ``locality.csv``.

    Raises:
        ValueError: the folder holds the study with other settings.
        KeyboardInterrupt: Ctrl-C; trainings are saved, a seed that was measured is kept, and the same command goes on.
    """
    runner.run(settings.plan, out / COMPARISON, command=command, fall_back=fall_back)
    found = Points(tuple(measured(settings, out)))
    files.write_file(out / "locality.csv", table(found))
    path = locality_page.write(
        found,
        locality_page.costs(settings.plan, out / COMPARISON),
        out,
        plan=settings.plan,
        pairs={pair.name: (pair.bank, pair.experts) for pair in settings.pairs},
        read=f"{settings.warm} passages fill the caches and {settings.passages} are measured",
        command=command,
        comparison=f"{COMPARISON}/report.html",
    )
    for sentence in locality_page.sentences(found):
        echo(sentence)
    echo(f"\nReport: {path}")
    return path


def measured(settings: Settings, out: Path) -> list[Point]:
    """Points of all seeds that did not diverge, measured now or before."""
    plan = settings.plan
    corpus = data.prepare(plan.data[0], vocab_size=plan.vocab_size)
    found: list[Point] = []
    seeds = [seed for seed in plan.seeds if not _diverged(settings, out, seed)]
    kept = {seed: _kept(settings, out, seed, corpus) for seed in seeds}
    readers = 2 + len(READERS) * len(settings.budgets)
    each = len(settings.pairs) * len(MODES) * readers * (1 + settings.passages)
    shown = progress(each * len(seeds), 0)
    try:
        for seed in seeds:
            points = kept[seed]
            if points is None:
                points = []
                for pair in settings.pairs:
                    told = f"reading, seed {seed}, {pair.name}"
                    points += _pair(settings, out, seed, pair, corpus, lambda told=told: shown.update(1, told))  # type: ignore[misc]
                content = {"made_from": _identity(settings, out, seed, corpus), "points": to_dicts(points)}
                files.write_file(_file(out, seed), json.dumps(content, indent=1) + "\n")
            else:
                shown.skip(each)
            found += points
    finally:
        shown.close()
    return found


def _pair(
    settings: Settings, out: Path, seed: int, pair: Pair, corpus: data.Corpus, told: Callable[[], None]
) -> list[Point]:
    places = {arm: _place(settings, out, seed, arm) for arm in (pair.bank, pair.experts)}
    folder = out / "experts" / f"{pair.experts}-seed-{seed}"
    tables = locality_reads.prepare(places[pair.bank], places[pair.experts], folder)
    part = settings.plan.seeds.index(seed) / len(settings.plan.seeds)
    points: list[Point] = []
    chosen: list[locality_reads.Choices] | None = None
    for mode in MODES:
        text = locality_reads.text_of(
            corpus.heldout,
            mode,
            length=settings.plan.recipe.length,
            passages=settings.passages,
            warm=settings.warm,
            part=part,
        )
        readers = list(locality_reads.readers(tables, mode, settings.budgets, text.most_rows(mode)))
        for reader in readers:
            reader.model.eval()
        chosen = chosen or locality_reads.choices(tables, text.warm)  # what fills the caches is the same in all modes
        locality_reads.measure(readers, text, mode, chosen, told)
        points += [reader.point(seed=seed, pair=pair.name, mode=mode.name) for reader in readers]
        for reader in readers:
            reader.close()
    return points


def _place(settings: Settings, out: Path, seed: int, arm: str) -> Path:
    return runner.run_folder(out / COMPARISON, settings.plan.data[0], seed, arm)


def _result(settings: Settings, out: Path, seed: int, arm: str) -> dict[str, Any]:
    content = (_place(settings, out, seed, arm) / runner.RESULT).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(content)
    return found


def _arms(settings: Settings) -> list[str]:
    return [arm for pair in settings.pairs for arm in (pair.bank, pair.experts)]


def _diverged(settings: Settings, out: Path, seed: int) -> bool:
    return any(_result(settings, out, seed, arm).get("diverged") is not None for arm in _arms(settings))


def _file(out: Path, seed: int) -> Path:
    return out / MEASURED / f"seed-{seed}.json"


def _identity(settings: Settings, out: Path, seed: int, corpus: data.Corpus) -> dict[str, Any]:
    made = {arm: _result(settings, out, seed, arm)["made_from"] for arm in _arms(settings)}
    return {"settings": settings.measuring(), "arms": made, "text": corpus.key}


def _kept(settings: Settings, out: Path, seed: int, corpus: data.Corpus) -> list[Point] | None:
    """What was measured before, None where nothing was, or not that."""
    if not _file(out, seed).is_file():
        return None
    content = json.loads(_file(out, seed).read_text(encoding="utf-8"))
    return from_dicts(content["points"]) if content["made_from"] == _identity(settings, out, seed, corpus) else None
