"""The study locality: what it counts, what it says, and that it goes on where it was."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import vademecum as vm
from vademecum import cli, data
from vademecum.compare import probe, runner
from vademecum.compare.arms import kinds_of
from vademecum.experts import offloaded
from vademecum.stores import tables
from vademecum.stores.cache import ENTRY
from vademecum.stores.disk import Disk
from vademecum.studies import locality, locality_reads
from vademecum.studies.locality_points import (
    BANK,
    ONE,
    READERS,
    RESIDENT,
    TOTAL,
    Point,
    from_dicts,
)
from vademecum.studies.locality_reads import MODES, RUN_UP, Cold, Mode, Tables, Text

TEXT = "The {0} of {1} lies {2} miles from the sea; its people grow {0} and sell {2} tons of it every year.\n"
WORDS = ("wheat", "rice", "copper", "island", "river", "market", "castle", "forest")
LENGTH = 32
SETTINGS = dataclasses.replace(
    locality.PRESETS["smoke"],
    plan=dataclasses.replace(
        locality.PRESETS["smoke"].plan,
        size=1,
        vocab_size=300,
        seeds=(0, 1),
        heldout_tokens=512,
        recipe=dataclasses.replace(
            locality.PRESETS["smoke"].plan.recipe, steps=6, batch=2, length=LENGTH, eval_every=6, eval_tokens=256
        ),
    ),
    budgets=(0.1, 0.4, 1.0),
    warm=3,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, run once on made-up facts."""
    folder = tmp_path_factory.mktemp("locality")
    (folder / "text").mkdir()
    for i in range(60):
        lines = [TEXT.format(WORDS[(i + j) % 8], WORDS[(i * 3 + j) % 8], i * j % 97) for j in range(40)]
        (folder / "text" / f"{i}.txt").write_text("".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "peak_memory", lambda plan, arm, width: 1_000_000)
        patch.setenv("VADEMECUM_CACHE", str(folder / "cache"))
        patch.setattr(locality, "PRESETS", {"smoke": SETTINGS})
        command = ["study", "locality", "--preset", "smoke", "--data", str(folder / "text")]
        assert cli.main([*command, "--out", str(folder / "out")]) == 0
    return folder


@pytest.fixture
def folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VADEMECUM_CACHE", str(trained / "cache"))
    return trained


def settings(folder: Path) -> locality.Settings:
    return dataclasses.replace(SETTINGS, plan=dataclasses.replace(SETTINGS.plan, data=(str(folder / "text"),)))


def points(folder: Path) -> list[Point]:
    found = []
    for seed in SETTINGS.plan.seeds:
        path = folder / "out" / locality.MEASURED / f"seed-{seed}.json"
        found += from_dicts(json.loads(path.read_text(encoding="utf-8"))["points"])
    return found


def tables_of(folder: Path, seed: int = 0) -> Tables:
    plan, place = settings(folder).plan, folder / "out" / locality.COMPARISON
    bank, experts = (runner.run_folder(place, plan.data[0], seed, arm) for arm in ("bank-4", "experts-16"))
    return Tables(bank, experts, folder / "out" / "experts" / f"experts-16-seed-{seed}" / "experts.safetensors")


def text_of(folder: Path, mode: Mode, passages: int = 1) -> Text:
    corpus = data.prepare(str(folder / "text"), vocab_size=300)
    return locality_reads.text_of(corpus.heldout, mode, length=LENGTH, passages=passages, warm=3, part=0.0)


@pytest.mark.parametrize("preset", locality.PRESETS)
def test_every_preset_pairs_a_bank_with_experts_of_as_many_parameters(preset: str) -> None:
    given = locality.settings_of(preset)
    arms = {arm.name: arm for arm in given.plan.arms}
    assert given.plan.baseline in arms
    for pair in given.pairs:
        sizes = []
        for arm in (pair.bank, pair.experts):
            model = vm.attach(given.plan.host_model(), *kinds_of(arms[arm].kinds))
            if arm == pair.bank:
                sizes.append(next(iter(vm.memories(model).banks().values())).nbytes)
            else:
                sizes.append(sum(p.numel() * 4 for each in offloaded.experts_of(model) for p in each.parameters()))
        assert 0.85 < sizes[0] / sizes[1] < 1.15


def test_what_is_given_changes_a_preset_and_wrong_budgets_are_refused() -> None:
    given = locality.settings_of("small", seeds=2, steps=40, budgets=[0.2, 1.0], passages=3)
    assert (given.plan.seeds, given.plan.recipe.steps, given.budgets, given.passages) == ((0, 1), 40, (0.2, 1.0), 3)
    assert given.warm == locality.PRESETS["small"].warm
    for wrong in ((), (0.0,), (0.5, 0.5), (math.inf,)):
        with pytest.raises(ValueError, match="expected different shares above 0"):
            dataclasses.replace(given, budgets=wrong)
    with pytest.raises(ValueError, match="did you mean small"):
        locality.settings_of("smal")


def test_the_verb_measures_every_way_of_reading_within_every_budget_on_every_seed(folder: Path) -> None:
    found = points(folder)
    with open(folder / "out" / "locality.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(found)
    for seed in SETTINGS.plan.seeds:
        for mode in MODES:
            here = [p for p in found if (p.seed, p.mode) == (seed, mode.name)]
            assert {(p.reader, p.budget) for p in here} == {
                *((reader, budget) for reader in READERS if reader != BANK for budget in SETTINGS.budgets),
                # A forward of eight passages needs more rows at once than the smallest budget has room for.
                *((BANK, budget) for budget in SETTINGS.budgets if mode.name != "prefill" or budget > 0.1),
                (BANK, RESIDENT),
                (ONE, RESIDENT),
            }
            assert {p.tokens for p in here} == {mode.sequences * LENGTH}
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "Hit rate: " in page
    assert (folder / "out" / "figures" / "locality-bank-4-experts-16.png").is_file()


def test_bytes_are_those_of_what_was_missed_and_what_is_held_fits_the_budget(folder: Path) -> None:
    for p in points(folder):
        assert p.moved == p.missed * p.item_bytes
        if p.budget == RESIDENT:
            assert (p.asked, p.budget_bytes) == (0, 0)
            continue
        assert p.asked > 0
        assert p.within
        if p.budget == 1.0 and p.reader == ONE:
            assert p.missed == 0


def test_cold_reads_ask_for_and_move_the_same_as_warm_ones(folder: Path) -> None:
    def counts(mode: str) -> dict[tuple[int, str, float], tuple[int, int, int]]:
        return {(p.seed, p.reader, p.budget): (p.asked, p.missed, p.moved) for p in points(folder) if p.mode == mode}

    assert counts("decode") == counts("decode-cold")


def missed(forwards: Iterable[Sequence[int]], room: int) -> list[int]:
    """How many each forward misses of what it asks for, of which the ``room`` used last are kept.

    Ids come distinct and ascending; those that are there are used before others are read.
    """
    kept: list[int] = []
    counts = []
    for asked in forwards:
        here, new = [i for i in asked if i in kept], [i for i in asked if i not in kept]
        kept = ([i for i in kept if i not in here] + here + new)[-room:]
        counts.append(len(new))
    return counts


def measured(folder: Path, name: str, budget: float) -> tuple[Point, int, Text]:
    """One way of reading, token by token: its point, how many rows or experts it has room for, and the text."""
    decode, found = MODES[0], tables_of(folder)
    text = text_of(folder, decode)
    every = locality_reads.readers(found, decode, (budget,), text.most_rows(decode))
    reader = next(each for each in every if (each.name, each.budget) == (name, budget))
    locality_reads.measure([reader], text, decode, locality_reads.choices(found, text.warm))
    working = reader.item_bytes if name == BANK else 0
    room = (int(budget * found.whole()) - working) // (reader.item_bytes + ENTRY)
    return reader.point(seed=0, pair="", mode=""), room, text


def test_the_bank_misses_what_a_cache_of_that_size_must_miss(folder: Path) -> None:
    point, room, text = measured(folder, BANK, 0.1)
    assert 2 < room < 60
    by_token = [*text.warm[-1][:RUN_UP].tolist(), *text.passages[0, 0].tolist()]
    forwards = [*(np.unique(window).tolist() for window in text.warm), *([i] for i in by_token)]
    assert (point.asked, point.missed) == (LENGTH, sum(missed(forwards, room)[-LENGTH:]))


def test_experts_miss_what_the_trained_router_chose_on_the_text_and_a_cache_of_that_size_must_miss(
    folder: Path,
) -> None:
    point, room, text = measured(folder, ONE, 0.4)
    assert 2 < room < 16
    resident = next(r for r in locality_reads.readers(tables_of(folder), MODES[0], (), 1) if r.name == ONE)
    chosen = []
    with torch.no_grad():
        for window in [*text.warm, *text.passages[0]]:
            with vm.record(resident.model) as record:
                resident.model(input_ids=torch.from_numpy(window)[None], use_cache=False)
            chosen.append(record.all("moe.layers.0", "experts").numpy())
    by_token = [*chosen[-2][:RUN_UP].tolist(), *chosen[-1].tolist()]
    forwards = [*(np.unique(each).tolist() for each in chosen[:-1]), *(sorted(each) for each in by_token)]
    assert (point.asked, point.missed) == (4 * LENGTH, sum(missed(forwards, room)[-LENGTH:]))
    assert 0 < point.missed < point.asked


def test_models_read_from_files_answer_as_those_in_memory(folder: Path) -> None:
    prefill = MODES[2]
    ids = torch.from_numpy(text_of(folder, prefill).passages[0])
    logits: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        rows = text_of(folder, prefill).most_rows(prefill)
        for reader in locality_reads.readers(tables_of(folder), prefill, (0.1, 0.8, 1.0), rows):
            logits.setdefault("bank" if reader.name == BANK else "experts", []).append(
                reader.model(input_ids=ids).logits
            )
    assert len(logits["bank"]) == 3
    assert len(logits["experts"]) >= 7
    for exact, *others in logits.values():
        for other in others:
            torch.testing.assert_close(other, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES[:3], ids=lambda mode: mode.name)
def test_a_bank_gives_no_point_where_a_budget_has_no_room_for_the_rows_of_a_forward(folder: Path, mode: Mode) -> None:
    found, text = tables_of(folder), text_of(folder, mode)
    rows = text.most_rows(mode)
    size = next(r for r in locality_reads.readers(found, mode, (), rows) if r.name == BANK).item_bytes
    enough = 2 * rows * size / found.whole()
    for budget, there in ((0.99 * enough, False), (1.01 * enough, True)):
        every = locality_reads.readers(found, mode, (budget,), rows)
        assert any((r.name, r.budget) == (BANK, budget) for r in every) == there


def test_decoding_reads_the_text_position_by_position_as_one_pass_does(folder: Path) -> None:
    model = next(iter(locality_reads.readers(tables_of(folder), MODES[0], (), 1))).model
    ids = torch.from_numpy(text_of(folder, MODES[0]).passages[0])
    seen: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda module, args, output: seen.append(output.logits))
    locality_reads.read_by_token(model, ids)
    handle.remove()
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(seen, 1), model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_with_equal_memory_in_all_experts_have_room_for_what_the_bank_keeps_a_dense_feed_forward_in(
    folder: Path,
) -> None:
    model = settings(folder).plan.host_model()
    dense = sum(p.nbytes for p in model.model.layers[0].mlp.parameters())
    gates = sum(p.nbytes for p in vm.attach(model, vm.MoVE(slots=4)).parameters() if p.shape[0] == 5)
    router = 16 * 32 * 4
    by_reader = {(p.mode, p.budget, p.seed, p.reader): p for p in points(folder)}
    checked = 0
    for p in points(folder):
        if p.reader == TOTAL:
            one, bank = (by_reader.get((p.mode, p.budget, p.seed, reader)) for reader in (ONE, BANK))
            assert one is not None
            assert p.budget_bytes - one.budget_bytes == dense + gates - router
            if bank is not None:
                assert bank.budget_bytes + bank.rest_bytes == p.budget_bytes + p.rest_bytes
            checked += 1
    assert checked == 2 * len(MODES) * len(SETTINGS.budgets)


def test_texts_side_by_side_and_the_one_that_fills_caches_do_not_overlap() -> None:
    heldout = np.arange(64 * 4 + 1)
    mode = Mode(name="", title="", sequences=5)
    for part in (0.0, 1 / 3, 2 / 3):
        text = locality_reads.text_of(heldout, mode, length=4, passages=8, warm=20, part=part)
        assert text.passages.shape == (8, 5, 4)
        read = np.concatenate([text.warm.reshape(-1), text.passages.reshape(-1)])
        assert len(np.unique(read)) == len(read) == 4 * (20 + 5 * 8)
        assert (np.diff(text.passages[:, 0].reshape(-1)) % 256 == 1).all()
    with pytest.raises(ValueError, match="64 windows of 4 tokens, and 20 \\+ 5 x 9 are read"):
        locality_reads.text_of(heldout, mode, length=4, passages=9, warm=20, part=0.0)


def test_the_most_rows_of_a_forward_are_counted_as_the_mode_reads() -> None:
    text = Text(np.zeros((1, 3), dtype=np.int64), np.array([[[1, 2, 1], [1, 3, 1]], [[1, 1, 1], [1, 1, 1]]]))
    assert text.most_rows(Mode(name="", title="", sequences=2)) == 2
    assert text.most_rows(Mode(name="", title="", sequences=2, whole=True)) == 3


def test_a_cold_table_gives_the_same_rows(tmp_path: Path) -> None:
    rows = torch.randn(50, 700)
    tables.write(tmp_path / "t.safetensors", {"t": rows})
    cold = Cold(tmp_path / "t.safetensors", "t", cap=0)
    ids = torch.tensor([0, 1, 2, 17, 49])
    assert torch.equal(cold.gather(ids), rows[ids])
    assert torch.equal(cold.gather(ids), Disk(tmp_path / "t.safetensors", "t").gather(ids))


def test_a_study_goes_on_without_measuring_again_what_it_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(folder)
    before = (folder / "out" / "locality.csv").read_bytes()

    def never(*args: object) -> list[Point]:
        raise AssertionError("it was measured already")

    monkeypatch.setattr(locality, "_pair", never)
    locality.run(given, folder / "out")
    assert (folder / "out" / "locality.csv").read_bytes() == before
    assert "Report: " in capsys.readouterr().out
    with pytest.raises(AssertionError, match="measured already"):
        locality.measured(dataclasses.replace(given, passages=2), folder / "out")
