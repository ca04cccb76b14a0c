"""The interval and the verdict decide what the report may claim."""

from __future__ import annotations

import pytest

from vademecum.compare import stats


@pytest.mark.parametrize(
    ("degrees", "confidence", "value"),
    [
        (1, 0.95, 12.7062),
        (2, 0.95, 4.30265),
        (3, 0.95, 3.18245),
        (4, 0.95, 2.77645),
        (5, 0.95, 2.57058),
        (9, 0.95, 2.26216),
        (10, 0.95, 2.22814),
        (30, 0.95, 2.04227),
        (1, 0.9, 6.31375),
        (2, 0.99, 9.92484),
        (7, 0.99, 3.49948),
    ],
)
def test_t_quantiles_equal_the_printed_tables(degrees: int, confidence: float, value: float) -> None:
    assert stats.t_quantile(degrees, confidence) == pytest.approx(value, rel=1e-5)


def test_the_quantile_approaches_the_normal_one_for_many_degrees() -> None:
    assert stats.t_quantile(100_000) == pytest.approx(1.95996, abs=1e-4)


def test_an_interval_over_three_values_is_the_textbook_one() -> None:
    result = stats.estimate([1.0, 2.0, 3.0])
    assert result.mean == 2.0
    assert result.half == pytest.approx(4.30265 / 3**0.5, rel=1e-5)


def test_one_seed_has_no_interval_and_no_claim() -> None:
    result = stats.estimate([1.5])
    assert result.half is None
    assert stats.verdict(result) == "one seed: no claim"


def test_no_shared_seed_is_no_claim() -> None:
    assert stats.paired({0: 1.0}, {1: 1.0}) is None
    assert stats.verdict(None) == "one seed: no claim"


def test_the_difference_is_paired_by_seed_not_by_order() -> None:
    result = stats.paired({2: 1.0, 1: 5.0}, {1: 5.5, 2: 1.5, 3: 9.0})
    assert result is not None
    assert result.values == (-0.5, -0.5)
    assert result.half == 0.0


def test_a_direction_is_named_only_if_the_interval_excludes_zero() -> None:
    assert stats.verdict(stats.estimate([-0.030, -0.033, -0.036])) == "better"
    assert stats.verdict(stats.estimate([0.030, 0.033, 0.036])) == "worse"
    assert stats.verdict(stats.estimate([-0.030, -0.001, -0.060])) == "no difference shown"
    assert stats.verdict(stats.Estimate(-0.1, 0.1, 3)) == "no difference shown"


def test_two_seeds_must_agree_very_closely_before_a_claim_is_made() -> None:
    assert stats.verdict(stats.estimate([-0.033, -0.037])) == "better"
    assert stats.verdict(stats.estimate([-0.025, -0.040])) == "no difference shown"


def test_empty_input_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        stats.estimate([])
    with pytest.raises(ValueError, match="degree of freedom"):
        stats.t_quantile(0)


def test_the_median_of_an_even_count_is_the_middle_of_the_two() -> None:
    assert stats.median([4, 1, 3, 2]) == 2.5
    assert stats.median([3, 1, 2]) == 2
