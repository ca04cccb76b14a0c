"""What the study locality says of its points: sentences within their intervals, every point in table and figure."""

from __future__ import annotations

import json
import math

import pytest

from vademecum.studies import locality_figures, locality_page
from vademecum.studies.locality_points import (
    BANK,
    ONE,
    PER_LAYER,
    RESIDENT,
    TOTAL,
    Point,
    Points,
    from_dicts,
    table,
    to_dicts,
)
from vademecum.studies.locality_reads import MODES


def made(reader: str, budget: float, seed: int, moved: int, *, asked: int = 1000, seconds: float = 1.0) -> Point:
    return Point(
        seed=seed,
        pair="b | e",
        mode="decode",
        reader=reader,
        budget=budget,
        budget_bytes=0 if budget == RESIDENT else 5_000,
        rest_bytes=1_000,
        offloaded_bytes=10_000,
        item_bytes=10,
        tokens=100,
        asked=asked,
        missed=moved // 10,
        moved=moved,
        held=4_000,
        seconds=seconds,
    )


def found(theirs: tuple[int, ...], mine: tuple[int, ...] = (1000, 1100, 900)) -> Points:
    each = []
    for seed, (bank, experts) in enumerate(zip(mine, theirs, strict=True)):
        each += [made(BANK, RESIDENT, seed, 0, asked=0), made(ONE, RESIDENT, seed, 0, asked=0)]
        each += [made(BANK, 0.5, seed, bank), made(ONE, 0.5, seed, 2 * experts), made(PER_LAYER, 0.5, seed, experts)]
    return Points(tuple(each))


def test_what_follows_from_a_point_is_per_token() -> None:
    point = made(BANK, 0.5, 0, 500)
    assert (point.moved_per_token, point.asked_per_token, point.speed) == (5.0, 100.0, 100.0)
    assert point.hit_rate == pytest.approx(0.95)
    assert point.normalised == pytest.approx(0.0005)
    assert point.within
    assert math.isnan(made(BANK, RESIDENT, 0, 0, asked=0).hit_rate)


def test_experts_stand_for_the_way_that_moves_fewer_bytes() -> None:
    shown = found((5000, 5500, 4500))
    assert shown.rival("b | e", "decode", 0.5) == PER_LAYER
    factor = shown.fewer("b | e", "decode", 0.5)
    assert factor is not None
    assert 10**factor.mean == pytest.approx(5.0)


def test_a_sentence_claims_only_what_its_interval_supports_for_the_bank_and_against_it() -> None:
    (said,) = locality_page.sentences(found((5000, 5500, 4500)))
    assert "experts move 5 times as many bytes per token as the bank with 50\u00a0%." in said
    assert "Hit rate: higher for the bank with 50\u00a0%." in said
    (said,) = locality_page.sentences(found((500, 550, 450)))
    assert "the bank moves 2 times as many as experts with 50\u00a0%" in said
    assert "Hit rate: higher for experts with 50\u00a0%." in said
    (said,) = locality_page.sentences(found((500, 5500, 900)))
    assert said.startswith("b | e, token by token, one text: with equal caches no difference shown with 50\u00a0%.")
    assert "Hit rate: no difference shown with 50\u00a0%." in said
    (said,) = locality_page.sentences(found((0, 0, 0)))
    assert "with 50\u00a0% the bank moves 10\u00a0B, experts 0\u00a0B." in said


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        ((2000, 2200, 1800), "experts move 2 times as many bytes per token as the bank with 50\u00a0%."),
        ((500, 550, 450), "the bank moves 2 times as many as experts with 50\u00a0%."),
        ((500, 5500, 900), "no difference shown with 50\u00a0%."),
    ],
)
def test_with_equal_memory_in_all_a_sentence_speaks_for_and_against_the_bank_too(
    moved: tuple[int, ...], expected: str
) -> None:
    more = [made(TOTAL, 0.5, seed, each) for seed, each in enumerate(moved)]
    (said,) = locality_page.sentences(Points((*found((5000, 5500, 4500)).points, *more)))
    assert f"With equal memory in all {expected}" in said


def test_what_is_kept_of_the_speed_is_of_the_same_models_in_memory() -> None:
    points = []
    for seed, slow in enumerate((1.0, 1.1, 0.9)):
        points += [made(BANK, RESIDENT, seed, 0, asked=0), made(ONE, RESIDENT, seed, 0, asked=0, seconds=0.5)]
        points += [made(BANK, 0.5, seed, 100, seconds=1.25 * slow), made(ONE, 0.5, seed, 200, seconds=slow)]
    shown = Points(tuple(points))
    bank, experts = (shown.slowing("b | e", "decode", reader, 0.5) for reader in (BANK, ONE))
    assert bank is not None
    assert experts is not None
    assert bank.mean / experts.mean == pytest.approx(0.8 / 0.5)
    assert (
        "Tokens per second over those in memory: higher for the bank with 50\u00a0%."
        in locality_page.sentences(shown)[0]
    )


def test_one_seed_supports_no_claim() -> None:
    one = Points(tuple(p for p in found((5000, 5500, 4500)).points if p.seed == 0))
    said = locality_page.sentences(one)
    assert said[-1] == "One seed: no interval, and so no claim."
    assert len(said) == 1


def test_the_table_the_csv_and_the_figure_have_every_point() -> None:
    shown = found((5000, 5500, 4500))
    rows = locality_page.table_rows(shown, "b | e", MODES[0])
    assert len(rows) == 1 + 5
    assert [row[1] for row in rows[1:]] == [BANK, ONE, PER_LAYER, BANK, "experts"]
    assert len(table(shown).splitlines()) == 1 + len(shown.points)
    assert from_dicts(json.loads(json.dumps(to_dicts(shown.points)))) == list(shown.points)
    figure = locality_figures.draw(shown, "b | e", "title").figure
    assert len(figure.axes[0].lines) == 3
