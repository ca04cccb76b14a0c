"""Only what an interval supports is said."""

from __future__ import annotations

from typing import Any

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
