"""The verbs ``compare`` and ``demo`` as plain functions; the command line binds them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vademecum.compare import asked, claims, questions, results, runner, tables
from vademecum.compare.arms import Arm
from vademecum.compare.plan import PRESETS, Plan


def plan_of(
    preset: str,
    *,
    arms: Sequence[str] | None = None,
    data: Sequence[str] | None = None,
    seeds: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    presets: Mapping[str, Plan] = PRESETS,
    **changes: Any,
) -> Plan:
    """A preset with what is given changed; None leaves the preset's value.

    ``arms`` are read by :meth:`Arm.parse` (or are the preset's own of that name), replace the scaling curve too and
    leave the questions that are about them alone; ``seeds`` is how many, from 0;
    ``recipe`` holds settings of the recipe, ``presets`` the plans by name, ``changes`` fields of the plan.
    Evaluations and checkpoints keep their share of the steps.
    """
    if preset not in presets:
        near = difflib.get_close_matches(preset, presets, n=1, cutoff=0)[0]
        raise ValueError(f"'{preset}' is not a preset; did you mean {near}? Presets are {', '.join(presets)}.")
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds={seeds} was given; expected 1 or more, and 3 or more for an interval worth having.")
    plan = presets[preset]
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if arms:
        own = {arm.name: arm for arm in (*plan.arms, *plan.curve)}
        chosen = tuple(own.get(text.strip()) or Arm.parse(text) for text in arms)
        names = {arm.name for arm in chosen}
        asked = tuple(each for each in plan.questions if {each.arm, each.against} <= names)
        given |= {"arms": chosen, "curve": (), "questions": asked}
    if data:
        given["data"] = tuple(data)
    if seeds is not None:
        given["seeds"] = tuple(range(seeds))
    settings = {name: value for name, value in (recipe or {}).items() if value is not None}
    if "steps" in settings and settings["steps"] >= 1:
        share = settings["steps"] / plan.recipe.steps
        settings |= {
            name: max(1, round(getattr(plan.recipe, name) * share)) for name in ("eval_every", "checkpoint_every")
        }
    if settings:
        given["recipe"] = dataclasses.replace(plan.recipe, **settings)
    return dataclasses.replace(plan, **given)


def run(
    plan: Plan, out: Path, *, command: str = "", fall_back: bool = False, echo: Callable[[str], None] = print
) -> Path:
    """Runs or goes on with ``plan`` in ``out``, then prints the tables, what they support and where the report is."""
    path = runner.run(plan, out, command=command, fall_back=fall_back)
    found = results.read(out)
    for source in dict.fromkeys(row.data for row in found["rows"]):
        echo(f"\n{source}\n{tables.text([row for row in found['rows'] if row.data == source])}")
    echo("")
    for sentence in claims.headline(found["rows"], plan.baseline):
        echo(sentence)
    for answer in questions.read(found):
        echo(f"{answer.text} ({answer.data}) {answer.sentence}")
    for source in dict.fromkeys(row.data for row in found["rows"]):
        if said := asked.shape(found, source):
            echo(f"{said} ({source}).")
    echo(f"\nReport: {path}")
    return path


def find_run(folder: Path, arm: str | None) -> Path:
    """The run of ``arm`` (first source, first seed) in the comparison that lies in ``folder``.

    An arm that is not in it, or none given, is a ValueError that lists the arms.
    """
    plan = runner.read_plan(folder)
    if plan is None:
        raise FileNotFoundError(f"{folder} holds no comparison: it has no {runner.PLAN}.")
    names = [each.name for each in plan.arms_on(plan.data[0])]
    if arm not in names:
        said = f"'{arm}' is not an arm of {folder}" if arm else f"{folder} holds several arms"
        raise ValueError(f"{said}: choose with --arm one of {', '.join(names)}.")
    return runner.run_folder(folder, plan.data[0], plan.seeds[0], arm)
