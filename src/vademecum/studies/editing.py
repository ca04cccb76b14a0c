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
from vademecum.editing.reading import as_it_was, greedy
from vademecum.studies import editing_host, editing_page, editing_records, editing_scores, editing_tuning
from vademecum.studies.editing_methods import FineTuning, InThePrompt, LowRank, Method, RankOne, WithEntries
from vademecum.studies.editing_records import Record
from vademecum.studies.editing_scores import Texts

#: What says of which model a folder's study is.
STUDY = "study.json"
#: Folder of what was measured, a file for each method, number of edits and seed.
MEASURED = "measured"
#: The name under which a host that is trained here can be asked for, and its folder in the study's.
CITIES, HOST = "cities", "host"
#: Single edits that stand for "one edit": each alone on a fresh model.
SINGLES = 6
#: Facts that settings are chosen on, and the seed of their draw, which no study has.
TUNING, DRAWN = 24, 1_000_003
#: Facts that are asked about where more are in place: as many, evenly drawn from all of them.
ASKED = 500
#: Words of a passage, passages of each sort, and of those that a moment of keys is taken from.
WORDS, PASSAGES, PLAIN = 80, 8, 240


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
    methods: tuple[str, ...] = ("entries", "finetune", "lora", "rank-one", "prompt")
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS: Mapping[str, Settings] = {
    "smoke": Settings(counts=(1, 3), seeds=(0,)),
    "small": Settings(),
    "full": Settings(counts=(1, 10, 100, 1000)),
    "cities": Settings(model=CITIES, counts=(1, 10, 100, 1000, 10_000), methods=("entries", "finetune", "lora")),
}


def methods(texts: Sequence[str]) -> dict[str, Method]:
    """Every way to write facts, by name; ``texts`` are plain ones."""
    found: list[Method] = [WithEntries(), FineTuning(), LowRank(), RankOne(texts), InThePrompt()]
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
    lands, cities = geonames.lands(), geonames.cities(most=max(300, 4 * max(settings.counts)))
    if settings.model == CITIES:
        cities = geonames.cities(most=editing_host.CITIES)
        host, tokenizer = opened(str(editing_host.trained(out / HOST, lands, cities, echo=echo)), device)
    else:
        host, tokenizer = opened(settings.model, device)
    files.write_file(out / STUDY, json.dumps(_about(settings)) + "\n")
    plain = _passages(data.sources()["wikipedia"].documents(), PLAIN, seed=0)
    ways = methods(plain)
    todo = [
        (seed, count, name)
        for seed in settings.seeds
        for count in settings.counts
        for name in settings.methods
        if not _file(out, name, count, seed).is_file()
    ]

    def go_on(texts: Sequence[str]) -> list[str]:
        with as_it_was(host):
            return greedy(host, tokenizer, texts, 5)

    def drawn(count: int, seed: int) -> tuple[list[Record], Texts]:
        records = editing_records.made(lands, cities, go_on, count=count, seed=seed)
        return records, _texts(records, seed)

    with tqdm(total=len(todo), desc="measured", unit="point", disable=not todo) as bar:
        bar.set_postfix_str("choosing settings of the methods")
        names = dict.fromkeys(name for _, _, name in todo)
        ways |= _tuned([ways[name] for name in names], out, host, tokenizer, drawn)
        for seed in dict.fromkeys(seed for seed, _, _ in todo):
            bar.set_postfix_str(f"seed {seed}, asking the host what it knows")
            records, texts = drawn(max(settings.counts), seed)
            asked = {id(record): record for count in settings.counts for record in _asked(records[: _room(count)])}
            then = editing_scores.before(host, tokenizer, list(asked.values()), texts)
            for count, name in [(count, name) for other, count, name in todo if other == seed]:
                bar.set_postfix_str(f"seed {seed}, {count} edits, {name}")
                some = records[: _room(count)]
                groups = [[record] for record in some] if count == 1 else [some]
                points = [_point(host, tokenizer, group, ways[name], texts, then) for group in groups]
                files.write_file(_file(out, name, count, seed), json.dumps(_mean(points), indent=1) + "\n")
                bar.update(1)
    found = measured(out)
    page = editing_page.write(
        found,
        out,
        settings=asdict(settings),
        titles={name: way.title for name, way in ways.items()},
        chosen=editing_tuning.chosen(out),
        command=command,
    )
    for line in editing_page.text(found):
        echo(line)
    echo(f"\nReport: {page}")
    return page


def _tuned(
    ways: Sequence[Method],
    out: Path,
    host: Any,
    tokenizer: Any,
    drawn: Callable[[int, int], tuple[list[Record], Texts]],
) -> dict[str, Method]:
    """``ways`` by name, with settings chosen on facts of a draw of their own, which is made only where it is needed."""
    asked: list[tuple[list[Record], Texts, editing_scores.Before]] = []

    def measure(method: Method) -> dict[str, Any]:
        if not asked:
            records, texts = drawn(TUNING, DRAWN)
            asked.append((records, texts, editing_scores.before(host, tokenizer, records, texts)))
        records, texts, then = asked[0]
        return _point(host, tokenizer, records, method, texts, then)

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
    host: Any, tokenizer: Any, records: Sequence[Record], method: Method, texts: Texts, then: editing_scores.Before
) -> dict[str, Any]:
    model = copy.deepcopy(host)
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
    return {"model": settings.model}


def _require_same_model(settings: Settings, out: Path) -> None:
    kept = out / STUDY
    if kept.is_file():
        there = json.loads(kept.read_text(encoding="utf-8"))
        if there != _about(settings):
            raise ValueError(
                f"{out} holds a study of {there['model']}, and {settings.model} was given; give another --out."
            )


def _texts(records: Sequence[Record], seed: int) -> Texts:
    """Passages of an encyclopedia and a factbook, by whether they name a subject."""
    subjects = [record.fact.subject for record in records]
    documents = [*data.sources()["wikipedia"].documents(), *data.sources()["factbook"].documents()]
    passages = _passages(documents, 40 * PASSAGES, seed=seed + 1)
    named = [text for text in passages if any(subject in text for subject in subjects)]
    plain = [text for text in passages if not any(subject.casefold() in text.casefold() for subject in subjects)]
    return Texts(tuple(plain[:PASSAGES]), tuple(named[:PASSAGES]))


def _passages(documents: Sequence[Any], count: int, *, seed: int) -> list[str]:
    draw = random.Random(seed)
    found = []
    for document in draw.choices(documents, k=count):
        words = document.text.split()
        begin = draw.randrange(max(1, len(words) - WORDS))
        found.append(" ".join(words[begin : begin + WORDS]))
    return found
