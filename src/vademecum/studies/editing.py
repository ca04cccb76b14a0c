"""The study ``editing``: facts written into a model in several ways, and everything asked with all of them in place."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vademecum import data, files
from vademecum.data import geonames
from vademecum.editing.commands import SMOLLM2, opened
from vademecum.editing.reading import as_it_was
from vademecum.studies import editing_host, editing_page, editing_scores, editing_tuning
from vademecum.studies.editing_methods import AsItIs, FineTuning, InThePrompt, LowRank, Method, RankOne, WithEntries
from vademecum.studies.editing_records import Record
from vademecum.studies.editing_scores import Texts
from vademecum.studies.editing_world import DRAWN, World, passages_of

#: What says of which model a folder's study is.
STUDY = "study.json"
#: Folder of what was measured, a file for each method, number of edits and seed.
MEASURED = "measured"
#: The name under which a host that is trained here can be asked for, and its folder in the study's.
CITIES, HOST = "cities", "host"
#: Cities, the largest, that facts are about; how facts are drawn, a number that is raised when that changes.
LARGEST, DRAW = 4_000, 3
#: Single edits that stand for "one edit": each alone on a fresh model.
SINGLES = 6
#: Facts that are asked about where more are in place: as many, evenly drawn from all of them.
ASKED = 500
#: Plain passages that a moment of keys is taken from.
PLAIN = 240


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured.

    Attributes:
        model: a local folder, ``smollm2``, or ``cities``: a small host that is trained first, on facts about cities.
        counts: how many edits are in place.
        methods: names of :func:`methods`.
        seeds: of the draw of facts and targets.
    """

    model: str = SMOLLM2
    counts: tuple[int, ...] = (1, 10, 100)
    methods: tuple[str, ...] = ("entries", "finetune", "lora", "rank-one", "prompt", "host")
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS: Mapping[str, Settings] = {
    "smoke": Settings(counts=(1, 3), seeds=(0,), methods=("entries", "prompt", "host")),
    "small": Settings(),
    "full": Settings(counts=(1, 10, 100, 1000)),
    "cities": Settings(
        model=CITIES, counts=(1, 10, 100, 1000, 10_000), methods=("entries", "finetune", "lora", "host")
    ),
}


def methods(texts: Sequence[str]) -> dict[str, Method]:
    """Every way to write facts, by name; ``texts`` are plain ones."""
    found: list[Method] = [WithEntries(), FineTuning(), LowRank(), RankOne(texts), InThePrompt(), AsItIs()]
    return {method.name: method for method in found}


def settings_of(
    preset: str,
    *,
    model: str | None = None,
    counts: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
) -> Settings:
    """A preset with what was given in its place.

    Raises:
        ValueError: there is no such preset or method, or a number is below 1.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}.")
    base = PRESETS[preset]
    known = Settings().methods
    wrong = [name for name in methods or () if name not in known]
    if wrong:
        raise ValueError(f"unknown method {wrong[0]!r}; known are {', '.join(known)}.")
    if min([*(counts or [1]), 1 if seeds is None else seeds]) < 1:
        raise ValueError(f"counts={list(counts or ())}, seeds={seeds} were given; expected 1 or more of each.")
    return Settings(
        model=model or base.model,
        counts=tuple(sorted(set(counts))) if counts else base.counts,
        methods=tuple(dict.fromkeys(methods)) if methods else base.methods,
        seeds=tuple(range(seeds)) if seeds else base.seeds,
    )


def run(settings: Settings, out: Path, *, command: str, echo: Callable[[str], None], device: str | None = None) -> Path:
    """Measure what is not measured yet, and write the page; returns its path.

    The folder can be gone on with: what lies in it is not measured again.

    Raises:
        ValueError: the folder holds another model's study.
        vademecum.data.Unavailable: facts or texts cannot be fetched.
    """
    _require_same_model(settings, out)  # before anything is trained or asked
    todo = [
        (seed, count, name)
        for seed in settings.seeds
        for count in settings.counts
        for name in settings.methods
        if not _file(out, name, count, seed).is_file()
    ]
    if todo:
        _measure(todo, settings, out, echo=echo, device=device)
    found = measured(out)
    page = editing_page.write(
        found,
        out,
        settings=asdict(settings),
        titles={name: way.title for name, way in methods(()).items()},
        chosen=editing_tuning.chosen(out),
        command=command,
    )
    for line in editing_page.text(found):
        echo(line)
    echo(f"\nReport: {page}")
    return page


def _measure(
    todo: Sequence[tuple[int, int, str]],
    settings: Settings,
    out: Path,
    *,
    echo: Callable[[str], None],
    device: str | None,
) -> None:
    """Measure seeds, numbers of edits and methods, a file each as soon as it is there."""
    lands = geonames.lands()
    cities = geonames.cities(most=editing_host.CITIES if settings.model == CITIES else LARGEST)
    if settings.model == CITIES:
        trained = editing_host.trained(out / HOST, lands, cities, echo=echo, device=device)
        host, tokenizer = opened(str(trained), device)
    else:
        host, tokenizer = opened(settings.model, device)
    files.write_file(out / STUDY, json.dumps(_about(settings)) + "\n")
    passages = passages_of(data.sources()["wikipedia"].documents())
    ways = methods(random.Random(0).sample(passages, min(PLAIN, len(passages))))
    with tqdm(total=len(todo), desc="measured", unit="point") as bar:
        bar.set_postfix_str("asking the host what it knows")
        world = World.asked(host, tokenizer, lands, cities)
        bar.set_postfix_str("choosing settings of the methods")
        ways |= _tuned([ways[name] for name in dict.fromkeys(name for _, _, name in todo)], out, world)
        for seed in dict.fromkeys(seed for seed, _, _ in todo):
            bar.set_postfix_str(f"seed {seed}, asking the host all that is asked")
            records = world.records(max(settings.counts), seed)
            plain = world.without(seed)
            asked = {id(record): record for count in settings.counts for record in _asked(records[: _room(count)])}
            then = editing_scores.before(host, tokenizer, list(asked.values()), plain)
            for count, name in [(count, name) for other, count, name in todo if other == seed]:
                bar.set_postfix_str(f"seed {seed}, {count} edits, {name}")
                some = records[: _room(count)]
                groups = [[record] for record in some] if count == 1 else [some]
                points = [_point(world, group, ways[name], world.texts(plain, group, seed), then) for group in groups]
                files.write_file(_file(out, name, count, seed), json.dumps(_mean(points), indent=1) + "\n")
                bar.update(1)


def _tuned(ways: Sequence[Method], out: Path, world: World) -> dict[str, Method]:
    """``ways`` by name, with settings chosen on facts of their own, which are asked about only where it is needed."""
    asked: list[tuple[Texts, editing_scores.Before]] = []

    def measure(method: Method) -> dict[str, Any]:
        if not asked:
            texts = world.texts(world.without(DRAWN), world.tuning, DRAWN)
            then = editing_scores.before(world.host, world.tokenizer, world.tuning, texts.without)
            asked.append((texts, then))
        return _point(world, world.tuning, method, *asked[0])

    return {way.name: editing_tuning.tuned(way, out, measure) for way in ways}


def measured(out: Path) -> dict[tuple[str, int, int], dict[str, Any]]:
    """All that lies measured in a study's folder, by method, number of edits and seed."""
    found = {}
    for name in Settings().methods:
        for path in (out / MEASURED).glob(f"{name}-*-seed-*.json"):
            count, seed = path.stem.removeprefix(f"{name}-").split("-seed-")
            found[name, int(count), int(seed)] = json.loads(path.read_text(encoding="utf-8"))
    order = {name: place for place, name in enumerate(Settings().methods)}
    return dict(sorted(found.items(), key=lambda one: (order[one[0][0]], *one[0][1:])))


def _room(count: int) -> int:
    return SINGLES if count == 1 else count


def _asked(records: Sequence[Record]) -> list[Record]:
    """All of ``records``, or :data:`ASKED` of them, evenly drawn from the first to the last."""
    if len(records) <= ASKED:
        return list(records)
    return [records[number * len(records) // ASKED] for number in range(ASKED)]


def _point(
    world: World, records: Sequence[Record], method: Method, texts: Texts, then: editing_scores.Before
) -> dict[str, Any]:
    model, tokenizer = copy.deepcopy(world.host), world.tokenizer
    facts = [record.fact for record in records]
    began = time.perf_counter()
    with tqdm(total=len(facts), desc=method.name, unit="fact", leave=False) as bar:

        def show(done: int, _: int) -> None:
            bar.update(done - bar.n)

        with as_it_was(model):
            size, edited = method.write(model, tokenizer, facts, show)
    seconds = time.perf_counter() - began
    scores = editing_scores.scores(edited, tokenizer, _asked(records), texts, then, method.asked)
    return {
        "edits": len(facts),
        "known": sum(record.known for record in records) / len(records),
        "seconds_per_edit": seconds / len(facts),
        "bytes_per_edit": size / len(facts),
        **scores,
    }


def _mean(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in points[0]:
        values = [point[name] for point in points if point[name] is not None]
        found[name] = sum(values) / len(values) if values else None
    return found


def _file(out: Path, method: str, count: int, seed: int) -> Path:
    return out / MEASURED / f"{method}-{count}-seed-{seed}.json"


def _about(settings: Settings) -> dict[str, Any]:
    return {"model": settings.model, "draw": DRAW}


def _require_same_model(settings: Settings, out: Path) -> None:
    kept = out / STUDY
    if kept.is_file():
        there = json.loads(kept.read_text(encoding="utf-8"))
        if there != _about(settings):
            drawn = " of facts that an older version drew otherwise" if there.get("draw") != DRAW else ""
            raise ValueError(
                f"{out} holds a study of {there['model']}{drawn}, and {settings.model} was given; give another --out."
            )
