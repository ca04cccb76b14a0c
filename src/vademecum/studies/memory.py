"""The study ``memory``: every kind on one host, on text, on facts to be known by heart, and on a graph.

Text is compared twice, at equal compute and at equal parameters. Beside it stand two probes of what a memory is good
for: how many facts about the world it keeps, and whether it knows what follows from what it learned
(:mod:`vademecum.studies.memory_paths`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vademecum import files
from vademecum.compare import commands, results, runner
from vademecum.compare.matching import BY, matched
from vademecum.compare.plan import Plan
from vademecum.studies import memory_page, memory_points
from vademecum.studies.memory_arms import ARMS, DENSE
from vademecum.studies.memory_points import Point, Probes
from vademecum.training import Recipe

#: Folder of what the probes measured, a file for each point.
MEASURED = "measured"


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        plan: of the comparisons on text, and of the probes' arms and seeds.
        probes: what the probes ask.
    """

    plan: Plan
    probes: Probes


_SMALL = Settings(
    plan=Plan(
        data=("factbook",),
        arms=ARMS,
        size=2,
        vocab_size=2048,
        prompts=0,
        heldout_tokens=60_000,
        recipe=Recipe(steps=150, batch=8, length=128, eval_every=75, eval_tokens=10_000, checkpoint_every=150, keep=1),
    ),
    probes=Probes(),
)
PRESETS: Mapping[str, Settings] = {
    "smoke": Settings(
        plan=dataclasses.replace(
            _SMALL.plan,
            arms=tuple(arm for arm in ARMS if arm.name in ("dense", "move", "product_key")),
            seeds=(0, 1),
            vocab_size=512,
            chunk=4,
            heldout_tokens=2048,
            recipe=Recipe(steps=8, batch=2, length=32, eval_every=4, eval_tokens=512, checkpoint_every=4, keep=1),
        ),
        probes=Probes(facts=(20, 40), exposures=4, vocab_size=512, degree=8, steps=20),
    ),
    "small": _SMALL,
    "full": Settings(
        plan=dataclasses.replace(
            _SMALL.plan,
            size=4,
            vocab_size=4096,
            recipe=dataclasses.replace(_SMALL.plan.recipe, steps=800, eval_every=200, checkpoint_every=400),
        ),
        probes=Probes(facts=(500, 1000, 2000, 4000, 8000), exposures=60, degree=128, steps=3000),
    ),
}
"""Sizes of the study: ``small`` takes about an hour on two cores."""


def settings_of(
    preset: str = "small",
    *,
    arms: list[str] | None = None,
    seeds: int | None = None,
    data: str | None = None,
    steps: int | None = None,
) -> Settings:
    """A preset with what is given changed; None leaves the preset's value.

    Raises:
        ValueError: an unknown preset or arm, or a wrong setting.
    """
    plan = commands.plan_of(
        preset,
        # The host alone is what all are compared with.
        arms=None if arms is None else list(dict.fromkeys([DENSE, *arms])),
        seeds=seeds,
        data=(data,) if data else None,
        recipe={"steps": steps},
        presets={name: settings.plan for name, settings in PRESETS.items()},
    )
    return Settings(plan=plan, probes=PRESETS[preset].probes)


def run(
    settings: Settings, out: Path, *, command: str, fall_back: bool = False, echo: Callable[[str], None] = print
) -> Path:
    """Measure what is not measured yet, and write ``report.html``, ``memory.csv`` and ``figures/`` into ``out``.

    Raises:
        ValueError: the folder holds the study with other settings.
        vademecum.data.Unavailable: facts or texts cannot be fetched.
        KeyboardInterrupt: Ctrl-C; the same command goes on.
    """
    _require_same(settings, out)
    _measure(settings, out)
    for by in BY:
        runner.run(matched(settings.plan, by), out / by, command=command, fall_back=fall_back)
    return draw(settings, out, command=command, echo=echo)


def draw(settings: Settings, out: Path, *, command: str, echo: Callable[[str], None] = print) -> Path:
    """Write the page from what lies measured in ``out``; returns its path."""
    texts = {by: results.read(out / by)["rows"] for by in BY}
    found = measured(settings, out)
    page = memory_page.write(found, texts, out, settings=settings, command=command)
    for line in memory_page.text(found, texts):
        echo(line)
    echo(f"\nReport: {page}")
    return page


def measured(settings: Settings, out: Path) -> dict[Point, dict[str, Any]]:
    """What the probes found, by point."""
    points = memory_points.every(settings.plan, settings.probes)
    return {
        point: json.loads(_file(out, point).read_text(encoding="utf-8"))
        for point in points
        if _file(out, point).is_file()
    }


def _measure(settings: Settings, out: Path) -> None:
    points = memory_points.every(settings.plan, settings.probes)
    todo = [point for point in points if not _file(out, point).is_file()]
    if not todo:
        return
    bench = memory_points.Bench(settings.plan, settings.probes)
    with tqdm(total=sum(map(bench.steps, todo)), desc="probes", unit="step") as bar:
        for point in todo:
            bar.set_postfix_str(f"{point.probe} {point.size}, {point.arm}, seed {point.seed}")
            found = bench.measure(point, bar.update)
            files.write_file(_file(out, point), json.dumps(found, indent=1) + "\n")


def _file(out: Path, point: Point) -> Path:
    return out / MEASURED / f"{point.probe}-{point.size}-{point.arm}-seed-{point.seed}.json"


def _require_same(settings: Settings, out: Path) -> None:
    kept = out / "study.json"
    # Seeds may be added. Arms may not: the largest of them says how many parameters all get.
    same = {
        "probes": dataclasses.asdict(settings.probes),
        "size": settings.plan.size,
        "arms": {arm.name: arm.kinds for arm in settings.plan.arms},
    }
    said = json.dumps(same)
    if kept.is_file() and json.loads(kept.read_text(encoding="utf-8")) != json.loads(said):
        raise ValueError(
            f"{out} holds this study with other settings or arms; give another --out, or the preset and arms of before."
        )
    files.write_file(kept, said + "\n")
