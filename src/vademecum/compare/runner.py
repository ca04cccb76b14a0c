"""Runs a plan: all arms of one (source, seed) side by side in one process, a chunk of steps each in turn.

Taking turns pairs the arms in time, so that a busy moment of the machine slows all of them and their ratio stays.
Killed at any point and started again it goes on from the runs' last checkpoints; what is finished has a
``result.json`` and is not run twice.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vademecum import files
from vademecum.compare import arms, entrants, environment, measure, probe, questions, report, results, shares
from vademecum.compare.entrants import Entrant
from vademecum.compare.media import Materials
from vademecum.compare.names import slug
from vademecum.compare.plan import MATCHES, Plan
from vademecum.compare.progress import Progress, progress
from vademecum.data import Material
from vademecum.roles import LR_RATIO
from vademecum.training import CheckpointDamaged, Diverged, Interrupted, Run, checkpoint, run_file

PLAN = "plan.json"
RESULT = "result.json"
ROUNDS = "rounds.jsonl"
FREE = ("arms", "curve", "data", "seeds", "prompts", "questions")
"""Parts of a plan that a folder may be gone on with changed: what is added is run, what is left out is left out of
the table.
"""


def run(plan: Plan, folder: Path, *, command: str = "", fall_back: bool = False) -> Path:
    """Trains what is not trained yet, writes results, figures and report into ``folder``; returns the report's path.

    Raises:
        ValueError: the folder holds a comparison with other settings, or the plan cannot be run; a folder that held
            none then holds none.
        KeyboardInterrupt: Ctrl-C; everything is saved and the same command goes on.
    """
    files.require_writable(folder)
    plan = shares.resolve(plan)
    _require_settings(plan, folder)
    read, built = plan.medium.materials(plan), entrants.measured(plan)
    files.write_file(folder / PLAN, plan.to_json())  # not before: a plan that is refused leaves the folder to another
    corpora, asked = read.corpora, plan
    plan = dataclasses.replace(plan, data=tuple(corpora))
    entered = entrants.prepare(asked, folder, built)
    for source, seed in plan.groups():
        for arm in plan.arms_on(source):
            place = run_folder(folder, source, seed, arm.name)
            _require_same(place, entered[arm.name].identity(plan, corpora[source].key))
    peaks = _peaks(asked, folder, entered)
    total = sum(entered[arm.name].steps for source, _ in plan.groups() for arm in plan.arms_on(source))
    finished = sum(
        entered[arm.name].steps
        for source, seed in plan.groups()
        for arm in plan.arms_on(source)
        if (run_folder(folder, source, seed, arm.name) / RESULT).is_file()
    )
    shown = progress(total, finished)
    try:
        for source, seed in plan.groups():
            _group(plan, folder, corpora[source], source, seed, entered, shown, fall_back)
    finally:
        shown.close()
    found = collect(plan, folder, read, entered, peaks, command)
    results.write(folder, found)
    questions.write(folder, questions.read(found))
    return report.write(folder, results.read(folder))


def run_folder(folder: Path, source: str, seed: int, arm: str) -> Path:
    """Where one run of a comparison lies: ``runs/factbook/seed-0/move``."""
    return folder / "runs" / slug(source) / f"seed-{seed}" / slug(arm)


def read_plan(folder: Path) -> Plan | None:
    """The plan that ``folder`` was started with, None where there is none."""
    path = folder / PLAN
    if not path.is_file():
        return None
    try:
        return Plan.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise files.Damaged(f"{path} is not a plan of this version ({error}): write to a new folder.") from error


def _require_settings(plan: Plan, folder: Path) -> None:
    before = read_plan(folder)
    if before is None:
        return
    old, new = before.to_dict(), plan.to_dict()
    for part in old:
        if part not in FREE and old[part] != new[part]:
            name, was, given = run_file.first_difference(old[part], new[part], part)
            raise ValueError(
                f"{folder} holds a comparison with {name} = {was}, and {given} was given; repeat its settings (see "
                f"{PLAN}), or write to a new folder with --out."
            )


def _peaks(plan: Plan, folder: Path, entered: Mapping[str, Entrant]) -> dict[str, int | None]:
    path = folder / "memory.json"
    known: dict[str, int | None] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, entrant in entered.items():
        if name not in known:
            known[name] = probe.peak_memory(plan, entrant.arm, entrant.ffn_width)
            files.write_file(path, json.dumps(known, indent=1) + "\n")
    return known


def _group(
    plan: Plan,
    folder: Path,
    corpus: Material,
    source: str,
    seed: int,
    entered: Mapping[str, Entrant],
    shown: Progress,
    fall_back: bool,
) -> None:
    """All arms of one source and seed, from wherever they stand to their results."""
    runs: dict[str, Run] = {}
    for arm in plan.arms_on(source):
        place = run_folder(folder, source, seed, arm.name)
        if not (place / RESULT).is_file():
            entrant = entered[arm.name]
            runs[arm.name] = _open(plan, entrant, corpus, place, source, seed, fall_back)
            shown.skip(runs[arm.name].step)
    try:
        lost = _take_turns(plan, runs, run_folder(folder, source, seed, "x").parent, f"{source}, seed {seed}", shown)
        for name in list(runs):
            finished = runs.pop(name)
            if name in lost:
                _give_up(plan, finished, entered[name], source, seed)
            else:
                _finish(plan, finished, entered[name], source, seed)
    except KeyboardInterrupt as error:
        for each in runs.values():
            each.checkpoint()
        raise Interrupted(f"stopped and saved in {folder}; the same command goes on from there.") from error


def _open(plan: Plan, entrant: Entrant, corpus: Material, place: Path, source: str, seed: int, fall_back: bool) -> Run:
    try:
        return Run.open(
            place,
            build=lambda: arms.build(entrant.arm, plan, seed=seed, ffn_width=entrant.ffn_width),
            corpus=corpus,
            recipe=entrant.recipe(plan, seed),
            description={"arm": entrant.arm.name, "data": source, "host": plan.host, "size": plan.size, "seed": seed},
            fall_back=fall_back,
            notes=plan.medium.to_dict(),
        )
    except CheckpointDamaged as error:
        if error.last_good is not None:
            raise
        raise files.Damaged(f"{error} Of the comparison only this run is lost: remove {place} alone.") from error


def _take_turns(plan: Plan, runs: Mapping[str, Run], folder: Path, what: str, shown: Progress) -> set[str]:
    """Rounds of one chunk per arm until all are done; each round begins with another. Returns those that diverged."""
    part, turn, lost = secrets.token_hex(4), 0, set[str]()
    for each in runs.values():
        if not each.done:
            each.warm_up()
    while unfinished := [name for name, each in runs.items() if not each.done and name not in lost]:
        first = turn % len(unfinished)
        for name in unfinished[first:] + unfinished[:first]:
            each = runs[name]
            step, tokens, seconds = each.step, each.tokens, each.seconds
            try:
                each.advance(plan.chunk)
            except Diverged:
                lost.add(name)
                shown.skip(each.recipe.steps - step)
                continue
            files.append_line(
                folder / ROUNDS,
                {
                    "round": f"{part}-{turn}",
                    "arm": name,
                    "tokens": each.tokens - tokens,
                    "seconds": each.seconds - seconds,
                },
            )
            shown.update(each.step - step, f"{what}, {name} {each.step}/{each.recipe.steps}")
        turn += 1
    return lost


def _give_up(plan: Plan, lost: Run, entrant: Entrant, source: str, seed: int) -> None:
    """The result of a run that diverged: where it did, and no number."""
    result = {"data": source, "arm": entrant.arm.name, "seed": seed, "diverged": lost.step}
    lost.close()
    _write(lost.folder, result, entrant.identity(plan, lost.corpus.key))


def _write(place: Path, result: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    files.write_file(place / RESULT, json.dumps({"made_from": identity, **result}, indent=1) + "\n")


def _require_same(place: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a finished run of another text, arm or recipe: its number would stand in one mean with others."""
    path = place / RESULT
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8")).get("made_from", {})
    differs = [name for name, value in identity.items() if before.get(name) != value]
    if differs:
        what = (
            f"another {' and another '.join(differs)}" if before else "an earlier version, which did not say from what"
        )
        raise ValueError(
            f"{place} holds a finished run made from {what}; remove that folder to run it again, or write to a new "
            "folder with --out."
        )


def _finish(plan: Plan, finished: Run, entrant: Entrant, source: str, seed: int) -> None:
    measured = measure.measure(finished, heldout_tokens=plan.heldout_tokens)
    measured |= plan.medium.measured(finished, plan, seed)
    result = {"data": source, "arm": entrant.arm.name, "seed": seed, "cost": asdict(entrant.cost), **measured}
    finished.close()
    _write(finished.folder, result, entrant.identity(plan, finished.corpus.key))
    # The optimizer's state is two thirds of a checkpoint and of no use to a finished run.
    counters = checkpoint.read(checkpoint.folder_of(finished.folder, finished.step), parts=()).state
    checkpoint.save(finished.folder, finished.step, {**finished.tensors(), "optimizer": {}}, counters, keep=1)


def collect(
    plan: Plan,
    folder: Path,
    read: Materials,
    entered: Mapping[str, Entrant],
    peaks: Mapping[str, int | None],
    command: str,
) -> dict[str, Any]:
    """The content of ``results.json`` from the finished runs in ``folder``, its rows as :class:`results.Row`."""
    names = read.names
    every = [
        json.loads((run_folder(folder, source, seed, arm.name) / RESULT).read_text(encoding="utf-8"))
        | {"data": names[source]}
        for source in plan.data
        for arm in plan.arms_on(source)
        for seed in plan.seeds
    ]
    runs = [each for each in every if each.get("diverged") is None]
    places = {
        (names[source], arm.name, seed): run_folder(folder, source, seed, arm.name)
        for source, seed in plan.groups()
        for arm in plan.arms_on(source)
    }
    timings = {
        (names[source], seed): files.read_lines(run_folder(folder, source, seed, "x").parent / ROUNDS)
        for source, seed in plan.groups()
    }
    return {
        "format": 1,
        "plan": plan.to_dict(),
        "match": MATCHES[plan.match],
        "ratios": {str(role): ratio for role, ratio in LR_RATIO.items()},
        "command": command,
        "environment": environment.describe(plan.device),
        "sources": {names[source]: _source(corpus, plan) for source, corpus in read.corpora.items()},
        "substituted": list(read.notes),
        "diverged": [
            {"data": each["data"], "arm": each["arm"], "seed": each["seed"], "step": each["diverged"]}
            for each in every
            if each.get("diverged") is not None
        ],
        "arms": {name: entrant.to_dict() for name, entrant in entered.items()},
        "rows": results.rows(every, timings, peaks, plan.baseline),
        "answers": [asdict(answer) for answer in questions.ask(plan.questions, every)],
        "curves": _nested(runs, "curve"),
        "slots": _nested(runs, "slots"),
        "experts": _nested(runs, "experts"),
        "samples": plan.medium.collected(plan, runs, read, places),
    }


def _source(corpus: Material, plan: Plan) -> dict[str, Any]:
    length, recipe = plan.recipe.length, plan.recipe

    def evaluated(limit: int) -> NDArray[np.int64]:
        return corpus.heldout_windows(length, max(1, limit // length) if limit else None)[:, 1:]

    last = evaluated(plan.heldout_tokens)
    return {
        "description": corpus.description,
        "evaluated_tokens": last.size,
        "evaluated_bytes": corpus.covered_bytes(last),
        "curve_tokens": evaluated(recipe.eval_tokens).size,
        **corpus.sizes(),
    }


def _nested(runs: list[dict[str, Any]], key: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in runs:
        if each[key]:
            found.setdefault(each["data"], {}).setdefault(each["arm"], {})[str(each["seed"])] = each[key]
    return found
