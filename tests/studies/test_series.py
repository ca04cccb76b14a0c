"""Series: what they average over, how arms are paired, what the CSV holds."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from tests.studies.conftest import STEPS, line
from vademecum.studies import series
from vademecum.studies.series import Series


def test_a_value_is_the_mean_over_the_layers_that_have_it(found: Series) -> None:
    assert found.lines[0].value("load_entropy") == pytest.approx(0.5)
    assert found.lines[0].value("similarity") is None
    assert found.lines[0].value("bits_per_byte") == found.lines[0].bits_per_byte


def test_a_band_has_one_row_per_seed_at_the_steps_all_share(found: Series) -> None:
    longer = Series((*found.lines, line("aux", 1, 40, 0.9, 1.0)))
    band = longer.band("aux", "load_entropy")
    assert band is not None
    assert band[0] == list(STEPS)
    np.testing.assert_allclose(band[1], [[0.9] * 3, [0.91] * 3, [0.92] * 3])


def test_a_band_less_another_arm_is_paired_by_seed(found: Series) -> None:
    alone = Series(tuple(each for each in found.lines if (each.arm, each.seed) != ("unbalanced", 2)))
    band = alone.band("aux", "bits_per_byte", less="unbalanced")
    assert band is not None
    np.testing.assert_allclose(band[1], [[0.02] * 3, [0.0] * 3], atol=1e-12)


def test_what_was_not_seen_has_no_band(found: Series) -> None:
    assert found.band("aux", "similarity") is None
    assert found.band("bias", "load_entropy") is None
    assert found.difference("bias", "aux", "load_entropy") is None


def test_a_difference_is_of_last_values_with_its_interval(found: Series) -> None:
    entropy = found.difference("aux", "unbalanced", "load_entropy")
    assert entropy is not None
    assert entropy.mean == pytest.approx(0.4)
    assert entropy.half == pytest.approx(0.0, abs=1e-9)


def test_the_table_holds_every_number_once_and_to_the_last_digit(found: Series) -> None:
    rows = list(csv.DictReader(io.StringIO(series.table(found))))
    assert len(rows) == 2 * 3 * 3 * (1 + 2 * 3)
    one = next(r for r in rows if r["layer"] == "moe.layers.1" and r["measure"] == "load_entropy")
    assert (one["arm"], one["seed"], one["step"]) == ("unbalanced", "0", "10")
    assert float(one["value"]) == 0.5 + 0.1
