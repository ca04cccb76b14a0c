"""Arms made concrete for one plan: what each costs, how wide its host is and how many steps it gets."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vademecum import files
from vademecum.analysis import cost
from vademecum.analysis.cost import ModelCost
from vademecum.compare import arms, stats
from vademecum.compare.arms import Arm
from vademecum.compare.names import slug
from vademecum.compare.plan import Plan
from vademecum.training import Recipe, Run

CALIBRATION_ROUNDS = 5
CALIBRATION_STEPS = 3
NOT_MADE_OF = ("note", "share", "sparse", "ffn_width")
"""Fields of an arm that say why its kinds are what they are, and change no run; the width stands beside the arm."""


@dataclass(frozen=True)
class Entrant:
    """An arm with its cost, its steps under the plan's ``match``, and a widened host's width (else None)."""

    arm: Arm
    cost: ModelCost
    steps: int
    ffn_width: int | None
    host_ffn_width: int

    @property
    def share(self) -> dict[str, float] | None:
        """Asked and true percentage of the sparse parameters that lie in memory, and both counts; None without one."""
        if self.arm.share is None or not self.arm.sparse:
            return None
        memory, experts = self.arm.sparse
        true = 100 * memory / max(1, memory + experts)
        return {"asked": self.arm.share, "true": true, "memory": memory, "experts": experts}

    @property
    def slots(self) -> int | None:
        """Slots of an arm that attaches nothing but a table of slots: a point of the scaling curve."""
        kinds = arms.kinds_of(self.arm.kinds)
        count = getattr(kinds[0], "slots", None) if len(kinds) == 1 else None
        return int(count) if count else None

    def recipe(self, plan: Plan, seed: int) -> Recipe:
        """The plan's recipe with this arm's steps and the run's seed."""
        return dataclasses.replace(plan.recipe, steps=self.steps, seed=seed)

    def identity(self, plan: Plan, corpus_key: str) -> dict[str, Any]:
        """What a finished run must have been made from to stand beside others; as plain as JSON gives it back."""
        arm = {name: value for name, value in self.arm.to_dict().items() if name not in NOT_MADE_OF}
        learning = {name: value for name, value in self.recipe(plan, 0).learning().items() if name != "seed"}
        made_of = {"corpus": corpus_key, "arm": arm, "ffn_width": self.ffn_width, "recipe": learning}
        plain: dict[str, Any] = json.loads(json.dumps(made_of))
        return plain

    def to_dict(self) -> dict[str, Any]:
        """What ``results.json`` says of the arm."""
        return {
            "note": self.arm.note,
            "kinds": list(self.arm.kinds),
            "settings": [kind.to_dict() for kind in arms.kinds_of(self.arm.kinds)],
            "ffn_width": self.host_ffn_width,
            "slots": self.slots,
            "share": self.share,
            "steps": self.steps,
            "cost": dataclasses.asdict(self.cost),
        }


def measured(plan: Plan) -> dict[str, Entrant]:
    """Every arm of ``plan`` by name, with its cost and the plan's steps; one that cannot be built raises."""
    found: dict[str, Entrant] = {}
    for arm in (*plan.arms, *plan.curve):
        width = arms.host_width(arm, plan)
        model = arms.build(arm, plan, seed=plan.seeds[0], ffn_width=width)
        spent = cost.measure(model, length=plan.recipe.length)
        found[arm.name] = Entrant(arm, spent, plan.recipe.steps, width, width or arms.dense_width(plan))
    return found


def prepare(plan: Plan, folder: Path, found: dict[str, Entrant] | None = None) -> dict[str, Entrant]:
    """Arms as :func:`measured` gives them, with the steps that the plan's match gives each.

    ``folder`` keeps a calibration by time for when the plan is resumed.
    """
    found = measured(plan) if found is None else found
    if plan.match == "tokens":
        return found
    if plan.match == "flops":
        expense = {name: entrant.cost.flops_per_token for name, entrant in found.items()}
    else:
        expense = _seconds_per_step(plan, found, folder)
    base = expense[plan.baseline]
    return {
        name: dataclasses.replace(entrant, steps=max(1, round(plan.recipe.steps * base / expense[name])))
        for name, entrant in found.items()
    }


def _seconds_per_step(plan: Plan, entrants: dict[str, Entrant], folder: Path) -> dict[str, float]:
    """Median training seconds per step of every arm, measured once in turn and then read back."""
    path = folder / "calibration.json"
    known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if entrants.keys() <= known.keys():
        return known
    corpus = plan.medium.material(plan, plan.data[0])
    scratch = folder / "calibration"
    shutil.rmtree(scratch, ignore_errors=True)
    steps = CALIBRATION_ROUNDS * CALIBRATION_STEPS + 1
    recipe = dataclasses.replace(plan.recipe, steps=steps, eval_every=0, checkpoint_every=0, seed=plan.seeds[0])
    runs = {
        name: Run.open(
            scratch / slug(name),
            build=lambda e=entrant: arms.build(e.arm, plan, seed=plan.seeds[0], ffn_width=e.ffn_width),  # type: ignore[misc]
            corpus=corpus,
            recipe=recipe,
        )
        for name, entrant in entrants.items()
    }
    for run in runs.values():
        run.warm_up()
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(CALIBRATION_ROUNDS):
        for name, run in runs.items():
            before = run.seconds
            run.advance(CALIBRATION_STEPS)
            took[name].append((run.seconds - before) / CALIBRATION_STEPS)
    # Arms that were calibrated before keep their number: their runs may already be under way.
    known = {name: stats.median(values) for name, values in took.items()} | known
    files.write_file(path, json.dumps(known, indent=1) + "\n")
    shutil.rmtree(scratch, ignore_errors=True)
    return known
