"""Runs a plan: all arms of one (source, seed) side by side in one process, a chunk of steps each in turn.

Taking turns pairs the arms in time, so that a busy moment of the machine slows all of them and their ratio stays.
Killed at any point and started again it goes on from the runs' last checkpoints; what is finished has a
``result.json`` and is not run twice.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vademecum import data, files
from vademecum.compare import arms, entrants, environment, measure, probe, report, results
from vademecum.compare.entrants import Entrant
from vademecum.compare.names import slug
from vademecum.compare.plan import MATCHES, Plan
from vademecum.compare.progress import Progress, progress
from vademecum.training import Interrupted, Run, checkpoint

PLAN = "plan.json"
RESULT = "result.json"
ROUNDS = "rounds.jsonl"
FREE = ("arms", "curve", "data", "seeds", "prompts")
"""Parts of a plan that a folder may be gone on with changed: what is added is run, what is left out is left out of
the table.
"""


def run(plan: Plan, folder: Path, *, command: str = "", fall_back: bool = False) -> Path:
    """Trains what is not trained yet, writes results, figures and report into ``folder``; returns the report's path.

    Raises:
        ValueError: the folder holds a comparison with other settings.
        KeyboardInterrupt: Ctrl-C; everything is saved and the same command goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _keep(plan, folder)
    corpora = {source: data.prepare(source, vocab_size=plan.vocab_size) for source in plan.data}
    entered = entrants.prepare(plan, folder)
    peaks = _peaks(plan, folder, entered)
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
    found = collect(plan, folder, corpora, entered, peaks, command)
    results.write(folder, found)
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


def _keep(plan: Plan, folder: Path) -> None:
    before = read_plan(folder)
    if before is not None:
        old, new = before.to_dict(), plan.to_dict()
        for name in old:
            if name not in FREE and old[name] != new[name]:
                raise ValueError(
                    f"{folder} holds a comparison with {name} = {old[name]}, and {new[name]} was given; repeat "
                    "its settings "
                    f"(see {PLAN}), or write to a new folder with --out."
                )
    files.write_file(folder / PLAN, plan.to_json())


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
    corpus: data.Corpus,
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
            shown.update(runs[arm.name].step, f"{source}, seed {seed}")
    prompts = (
        [prompt for prompt, _ in measure.prompts(corpus, plan.prompts, plan.recipe.length)]
        if seed == plan.seeds[0]
        else []
    )
    try:
        _take_turns(plan, runs, run_folder(folder, source, seed, "x").parent, f"{source}, seed {seed}", shown)
        for name in list(runs):
            finished = runs.pop(name)
            _finish(plan, finished, entered[name], source, seed, prompts)
    except KeyboardInterrupt as error:
        for each in runs.values():
            each.checkpoint()
        raise Interrupted(f"stopped and saved in {folder}; the same command goes on from there.") from error


def _open(
    plan: Plan, entrant: Entrant, corpus: data.Corpus, place: Path, source: str, seed: int, fall_back: bool
) -> Run:
    return Run.open(
        place,
        build=lambda: arms.build(entrant.arm, plan, seed=seed, ffn_width=entrant.ffn_width),
        corpus=corpus,
        recipe=entrant.recipe(plan, seed),
        description={"arm": entrant.arm.name, "data": source, "host": plan.host, "size": plan.size, "seed": seed},
        fall_back=fall_back,
    )


def _take_turns(plan: Plan, runs: Mapping[str, Run], folder: Path, what: str, shown: Progress) -> None:
    """Rounds of one chunk per arm until all are done; each round begins with another arm."""
    session, turn = secrets.token_hex(4), 0
    while unfinished := [name for name, each in runs.items() if not each.done]:
        first = turn % len(unfinished)
        for name in unfinished[first:] + unfinished[:first]:
            each = runs[name]
            step, tokens, seconds = each.step, each.tokens, each.seconds
            each.advance(plan.chunk)
            files.append_line(
                folder / ROUNDS,
                {
                    "round": f"{session}-{turn}",
                    "arm": name,
                    "tokens": each.tokens - tokens,
                    "seconds": each.seconds - seconds,
                },
            )
            shown.update(each.step - step, f"{what}, {name} {each.step}/{each.recipe.steps}")
        turn += 1


def _finish(plan: Plan, finished: Run, entrant: Entrant, source: str, seed: int, prompts: list[list[int]]) -> None:
    measured = measure.measure(finished, heldout_tokens=plan.heldout_tokens, prompts=prompts, seed=seed)
    result = {"data": source, "arm": entrant.arm.name, "seed": seed, "cost": asdict(entrant.cost), **measured}
    finished.close()
    files.write_file(finished.folder / RESULT, json.dumps(result, indent=1) + "\n")
    # The optimizer's state is two thirds of a checkpoint and of no use to a finished run.
    counters = checkpoint.read(checkpoint.folder_of(finished.folder, finished.step), parts=()).state
    checkpoint.save(finished.folder, finished.step, {**finished.tensors(), "optimizer": {}}, counters, keep=1)


def collect(
    plan: Plan,
    folder: Path,
    corpora: Mapping[str, data.Corpus],
    entered: Mapping[str, Entrant],
    peaks: Mapping[str, int | None],
    command: str,
) -> dict[str, Any]:
    """The content of ``results.json`` from the finished runs in ``folder``, its rows as :class:`results.Row`."""
    runs = [
        json.loads((run_folder(folder, source, seed, arm.name) / RESULT).read_text(encoding="utf-8"))
        for source in plan.data
        for arm in plan.arms_on(source)
        for seed in plan.seeds
    ]
    timings = {
        (source, seed): files.read_lines(run_folder(folder, source, seed, "x").parent / ROUNDS)
        for source, seed in plan.groups()
    }
    return {
        "format": 1,
        "plan": plan.to_dict(),
        "match": MATCHES[plan.match],
        "command": command,
        "environment": environment.describe(plan.device),
        "sources": {name: _source(corpus) for name, corpus in corpora.items()},
        "arms": {name: entrant.to_dict() for name, entrant in entered.items()},
        "rows": results.rows(runs, timings, peaks, plan.baseline),
        "curves": _nested(runs, "curve"),
        "slots": _nested(runs, "slots"),
        "experts": _nested(runs, "experts"),
        "samples": _samples(plan, runs, corpora),
    }


def _source(corpus: data.Corpus) -> dict[str, Any]:
    return {
        "description": corpus.description,
        "heldout_bytes": corpus.heldout_bytes,
        "heldout_tokens": len(corpus.heldout),
        "train_tokens": len(corpus.train),
        "bytes_per_token": corpus.bytes_per_token,
    }


def _nested(runs: list[dict[str, Any]], key: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in runs:
        if each[key]:
            found.setdefault(each["data"], {}).setdefault(each["arm"], {})[str(each["seed"])] = each[key]
    return found


def _samples(plan: Plan, runs: list[dict[str, Any]], corpora: Mapping[str, data.Corpus]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for source, corpus in corpora.items():
        decode = corpus.tokenizer.decode
        begun = measure.prompts(corpus, plan.prompts, plan.recipe.length)
        texts = {
            each["arm"]: each["texts"] for each in runs if each["data"] == source and each["seed"] == plan.seeds[0]
        }
        if begun:
            found[source] = {"prompts": [{"prompt": decode(a), "truth": decode(b)} for a, b in begun], "texts": texts}
    return found
