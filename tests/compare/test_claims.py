"""Only what an interval supports is said."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from vademecum.compare import claims, stats
from vademecum.compare.stats import Estimate


def test_a_supported_difference_is_named_with_its_interval_and_speed(made_up: Any) -> None:
    row = made_up()["rows"][3]
    assert row.verdict == stats.BETTER
    sentence = claims.of_row(row, "dense")
    assert "move+moe ends 0.0" in sentence
    assert "below dense" in sentence
    assert "of its training speed" in sentence


def test_an_unsupported_difference_is_never_given_a_direction(made_up: Any) -> None:
    for row in made_up()["rows"]:
        sentence = claims.of_row(row, "dense")
        if row.verdict not in (stats.BETTER, stats.WORSE):
            assert "below" not in sentence
            assert "above" not in sentence


def test_the_headline_of_one_seed_makes_no_claim(made_up: Any) -> None:
    (sentence,) = claims.headline(made_up(seeds=(0,))["rows"], "dense")
    assert "no claim" in sentence


def test_every_compared_arm_is_in_the_headline_of_several_sources(made_up: Any) -> None:
    found = made_up(data=("factbook", "webster"))
    sentences = claims.headline(found["rows"], "dense")
    assert [s.split(":")[0] for s in sentences] == ["moe", "move", "move+moe", "move-2"]


def test_numbers_have_a_proper_minus_sign() -> None:
    assert claims.number(-0.0371, signed=True) == "\u22120.037"
    assert stats.verdict(Estimate(0.0, 0.0, 3)) == "no difference shown"


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (Estimate(0.96, 0.02, 3), "at 0.96 \u00b1 0.02 of its training speed"),
        (Estimate(0.96, 0.05, 3), "no difference in training speed shown"),
        (Estimate(0.96, None, 1), "bits per byte below dense."),
    ],
)
def test_a_speed_is_said_only_where_its_interval_supports_it(made_up: Any, ratio: Estimate, said: str) -> None:
    row = dataclasses.replace(made_up()["rows"][3], speed_ratio=ratio)
    assert said in claims.of_row(row, "dense")


def test_an_arm_with_a_lost_seed_is_in_the_headline_without_a_direction(made_up: Any) -> None:
    rows = made_up()["rows"]
    rows[3] = dataclasses.replace(rows[3], verdict="1 seed diverged: no claim")
    (sentence,) = [s for s in claims.headline(rows, "dense") if s.startswith("move+moe")]
    assert sentence == "move+moe: 1 seed diverged: no claim."
