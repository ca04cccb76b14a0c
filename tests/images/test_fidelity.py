"""Distances against closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vademecum.images.fidelity import copied, frechet, nearest, precision_recall


def cloud(count: int, width: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)) * scale + shift


def test_the_distance_of_a_set_from_itself_is_nothing() -> None:
    assert frechet(cloud(50, 6, 0), cloud(50, 6, 0)) == pytest.approx(0, abs=1e-9)


def test_a_shift_costs_its_square_and_a_scale_what_the_equation_says() -> None:
    points = cloud(400, 5, 1)
    assert frechet(points, points + 3.0) == pytest.approx(5 * 9.0)
    # Equal means, covariances C and 4 C: tr(C + 4 C - 2 * 2 C) = tr C.
    centred = points - points.mean(0)
    assert frechet(centred, 2 * centred) == pytest.approx(np.trace(np.cov(points, rowvar=False)))


def test_gaussians_that_do_not_commute_match_the_square_root_written_out() -> None:
    real, made = (
        cloud(300, 3, 2) @ np.array([[2, 0, 0], [1, 1, 0], [0, 0, 1.0]]),
        cloud(300, 3, 3) @ np.diag([1, 2, 3.0]),
    )
    a, b = np.cov(real, rowvar=False), np.cov(made, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    expected = ((real.mean(0) - made.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root
    assert frechet(real, made) == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 12), st.integers(0, 99))
def test_the_distance_is_symmetric_never_negative_and_blind_to_rotation(n: int, m: int, width: int, seed: int) -> None:
    real, made = cloud(n, width, seed), cloud(m, width, seed + 1, 0.5, 2.0)
    there = frechet(real, made)
    assert there >= 0
    assert frechet(made, real) == pytest.approx(there, rel=1e-5, abs=1e-5)
    turn, _ = np.linalg.qr(cloud(width, width, seed + 2))
    assert frechet(real @ turn, made @ turn) == pytest.approx(there, rel=1e-5, abs=1e-5)


def test_equal_sets_have_all_precision_and_recall_and_distant_ones_none() -> None:
    points = cloud(60, 4, 0)
    same, apart = precision_recall(points, points.copy()), precision_recall(points, points + 100)
    assert (same.precision, same.recall) == (1.0, 1.0)
    assert (apart.precision, apart.recall) == (0.0, 0.0)


def test_half_of_the_modes_is_precise_and_half_recalled() -> None:
    real = np.concatenate([cloud(100, 3, 0), cloud(100, 3, 1, 50.0)])
    found = precision_recall(real, cloud(200, 3, 2))
    assert found.precision > 0.9
    assert 0.4 < found.recall < 0.51


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 40), st.integers(5, 40), st.integers(1, 3), st.integers(0, 99))
def test_precision_and_recall_are_those_of_a_plain_double_loop(n: int, m: int, k: int, seed: int) -> None:
    real, made = cloud(n, 3, seed), cloud(m, 3, seed + 1, 0.3)

    def within(points: np.ndarray, members: np.ndarray) -> float:
        inside = 0
        for point in points:
            hit = False
            for one in members:
                radius = sorted(np.linalg.norm(members - one, axis=1))[k]
                hit |= bool(np.linalg.norm(point - one) <= radius)
            inside += hit
        return inside / len(points)

    found = precision_recall(real, made, k)
    assert found.precision == pytest.approx(within(made, real))
    assert found.recall == pytest.approx(within(real, made))


def test_the_nearest_is_that_of_a_plain_search() -> None:
    made, train = cloud(700, 3, 0), cloud(40, 3, 1)
    numbers, distances = nearest(made, train)
    every = np.linalg.norm(made[:, None] - train[None], axis=2)
    assert (numbers == every.argmin(1)).all()
    np.testing.assert_allclose(distances, every.min(1), atol=1e-9)


def test_copies_are_told_from_new_pictures() -> None:
    train, heldout = cloud(300, 8, 0), cloud(100, 8, 1)
    assert copied(train[:50] + 1e-3, heldout, train) == 1.0
    assert copied(cloud(100, 8, 2), heldout, train) < 0.2


@pytest.mark.parametrize(
    ("real", "made", "said"),
    [
        ((1, 3), (5, 3), r"real features of shape \[1, 3\]"),
        ((5, 3), (1, 3), r"made features of shape \[1, 3\]"),
        ((5, 3), (5, 4), "3 and 4 wide"),
    ],
)
def test_what_has_no_distance_is_refused(real: tuple[int, int], made: tuple[int, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        frechet(np.zeros(real), np.zeros(made))
