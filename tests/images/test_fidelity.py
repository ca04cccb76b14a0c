from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vademecum.images import fidelity
from vademecum.images.fidelity import Gaussian, PrecisionRecall, copied, frechet, nearest, precision_recall

Cloud = NDArray[np.float64]


def cloud(seed: int, count: int, width: int) -> Cloud:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, width)) @ generator.normal(size=(width, width)) + generator.normal(size=width)


def turned(width: int, seed: int) -> Cloud:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


seeds, counts, widths = st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 12)


@given(seeds, counts, widths)
def test_the_distance_of_features_from_themselves_is_zero(seed: int, count: int, width: int) -> None:
    points = cloud(seed, count, width)
    assert frechet(points, points) <= 1e-9 * (1 + (points**2).sum())


@given(seeds, counts, widths)
def test_a_shift_costs_its_square(seed: int, count: int, width: int) -> None:
    points, shift = cloud(seed, count, width), np.random.default_rng(seed).normal(size=width)
    assert frechet(points, points + shift) == pytest.approx((shift**2).sum(), rel=1e-6, abs=1e-8)


@given(seeds, counts, widths, st.floats(0.0, 3.0))
def test_a_scaled_covariance_costs_the_square_of_the_scale_less_one_times_its_trace(
    seed: int, count: int, width: int, scale: float
) -> None:
    points = cloud(seed, count, width)
    mean = points.mean(0)
    expected = (scale - 1) ** 2 * np.var(points, axis=0, ddof=1).sum()
    assert frechet(points, mean + scale * (points - mean)) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@given(seeds, st.integers(14, 60), st.integers(14, 60), widths)
def test_it_is_the_formula_with_a_general_root_of_the_product(seed: int, real: int, made: int, width: int) -> None:
    one, other = cloud(seed, real, width), cloud(seed + 1, made, width)
    a, b = (np.cov(points, rowvar=False).reshape(width, width) for points in (one, other))
    root = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root
    assert frechet(one, other) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(seeds, counts, counts, widths)
def test_it_is_symmetric_and_never_negative(seed: int, real: int, made: int, width: int) -> None:
    one, other = cloud(seed, real, width), cloud(seed + 1, made, width)
    assert frechet(one, other) == pytest.approx(frechet(other, one), rel=1e-7, abs=1e-7)
    assert frechet(one, other) >= 0


@given(seeds, counts, counts, widths)
def test_turning_moving_and_reordering_both_sides_changes_nothing(seed: int, real: int, made: int, width: int) -> None:
    one, other = cloud(seed, real, width), cloud(seed + 1, made, width)
    turn, generator = turned(width, seed), np.random.default_rng(seed)
    move = generator.normal(size=width)
    expected = pytest.approx(frechet(one, other), rel=1e-6, abs=1e-6)
    assert frechet(one @ turn + move, generator.permutation(other) @ turn + move) == expected
    assert frechet(3 * one, 3 * other) / 9 == expected


def test_fewer_rows_than_columns_give_a_finite_distance_without_noise() -> None:
    few = cloud(0, 20, 300)
    scale = np.var(few, axis=0, ddof=1).sum()
    assert frechet(few, few) <= 1e-10 * scale
    assert frechet(few, few + 1) == pytest.approx(300)
    assert np.isfinite(frechet(few, cloud(1, 7, 300)))


def test_a_fitted_gaussian_has_the_mean_and_the_root_of_the_covariance() -> None:
    points = cloud(3, 50, 4)
    fitted = Gaussian.of(points)
    assert np.allclose(fitted.mean, points.mean(0))
    assert np.allclose(fitted.root, fitted.root.T)
    assert np.allclose(fitted.root @ fitted.root, np.cov(points, rowvar=False))
    assert fitted.distance(points[:20]) == frechet(points, points[:20])


def test_more_of_the_same_pictures_lie_nearer_which_is_why_counts_must_be_equal() -> None:
    points = np.random.default_rng(0).normal(size=(4000, 16))
    few, many = frechet(points[:2000], points[2000:2050]), frechet(points[:2000], points[2000:])
    assert few > 3 * many


@pytest.mark.parametrize("measure", [frechet, precision_recall], ids=["frechet", "precision_recall"])
def test_what_is_no_set_of_features_is_refused_and_named(measure: object) -> None:
    assert callable(measure)
    good, broken = np.ones((6, 3)), np.ones((6, 3), np.float32)
    broken[2, 1] = np.nan
    for given_, said in (
        ((good, np.ones((1, 3))), "made features of shape [1, 3]"),
        ((np.ones((1, 3)), good), "real features of shape [1, 3]"),
        ((good, np.ones((6, 3, 1))), "made features of shape [6, 3, 1]"),
        ((good, np.ones((6, 4))), "3 and 4 wide"),
        ((good, broken), "1 of 6 made features are not finite"),
        ((np.full((6, 3), np.inf), good), "6 of 6 real features are not finite"),
    ):
        with pytest.raises(ValueError) as error:
            measure(*given_)
        assert said in str(error.value)


# Precision and recall


def looped(real: Cloud, made: Cloud, k: int) -> PrecisionRecall:
    def within(points: Cloud, members: Cloud) -> float:
        count = 0
        for point in points:
            for number, member in enumerate(members):
                others = sorted(float(np.linalg.norm(member - each)) for each in np.delete(members, number, 0))
                if float(np.linalg.norm(point - member)) <= others[k - 1]:
                    count += 1
                    break
        return count / len(points)

    return PrecisionRecall(within(made, real), within(real, made))


@given(seeds, st.integers(6, 14), st.integers(6, 14), st.integers(1, 4), st.integers(1, 5))
def test_precision_and_recall_are_those_of_the_plain_loops(seed: int, real: int, made: int, width: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    one, other = generator.normal(size=(real, width)), generator.normal(0.7, 1, size=(made, width))
    assert precision_recall(one, other, k) == looped(one, other, k)


@given(seeds, st.integers(6, 20), st.integers(6, 20))
def test_precision_one_way_is_recall_the_other_way(seed: int, real: int, made: int) -> None:
    one, other = cloud(seed, real, 3), cloud(seed + 1, made, 3)
    there, back = precision_recall(one, other), precision_recall(other, one)
    assert (there.precision, there.recall) == (back.recall, back.precision)


def test_the_same_cloud_has_all_and_one_far_away_has_nothing() -> None:
    points = cloud(0, 60, 5)
    assert precision_recall(points, points) == PrecisionRecall(1.0, 1.0)
    assert precision_recall(points, points + 1000) == PrecisionRecall(0.0, 0.0)


def test_half_the_modes_are_precise_and_recall_half() -> None:
    generator = np.random.default_rng(0)
    modes = np.array([[0, 0], [50, 0], [0, 50], [50, 50]])
    real = np.concatenate([mode + generator.normal(size=(100, 2)) for mode in modes])
    half = np.concatenate([mode + generator.normal(size=(200, 2)) for mode in modes[:2]])
    found = precision_recall(real, half)
    assert found.precision > 0.9
    assert 0.4 < found.recall <= 0.5


def test_one_picture_again_and_again_is_precise_and_recalls_nothing_else() -> None:
    real = cloud(0, 50, 3)
    found = precision_recall(real, np.repeat(real[:1], 50, 0))
    assert found.precision == 1
    assert found.recall <= 0.02


def test_too_small_a_set_for_k_neighbours_is_refused() -> None:
    with pytest.raises(ValueError, match="N of 4 or more"):
        precision_recall(np.ones((3, 2)), np.ones((9, 2)))
    with pytest.raises(ValueError, match="k=0"):
        precision_recall(np.ones((9, 2)), np.ones((9, 2)), k=0)


def test_precision_and_recall_never_hold_all_distances_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "_ROWS", 64)
    points = np.random.default_rng(0).normal(size=(3000, 2)).astype(np.float32)
    tracemalloc.start()
    precision_recall(points, points[:2900] + 0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 3000  # bytes: an eighth of all the distances


# Nearest rows and copies


@given(seeds, st.integers(1, 12), st.integers(1, 25), st.integers(1, 5))
def test_nearest_is_that_of_the_plain_loop_however_it_is_cut(seed: int, made: int, train: int, width: int) -> None:
    one, other = cloud(seed, made, width), cloud(seed + 1, train, width)
    apart = np.linalg.norm(one[:, None] - other[None], axis=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "_ROWS", 5)
        patch.setattr(fidelity, "_TRAIN", 7)
        numbers, distances = nearest(one, other)
    assert numbers.tolist() == apart.argmin(1).tolist()
    assert np.allclose(distances, apart.min(1), rtol=1e-12)


def test_a_copy_lies_at_distance_zero_also_far_from_the_origin_and_as_bytes() -> None:
    train = cloud(0, 40, 6) + 1e6
    numbers, distances = nearest(train[[7, 3]], train)
    assert (numbers.tolist(), distances.tolist()) == ([7, 3], [0.0, 0.0])
    pictures = np.random.default_rng(0).integers(0, 256, (30, 16), dtype=np.uint8)
    moved = pictures[:5].copy()
    moved[:, 0] ^= 128  # one pixel further by 128: bytes must not wrap round
    numbers, distances = nearest(moved, pictures)
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    assert distances.tolist() == [128.0] * 5


def test_no_pictures_have_no_neighbours_and_no_training_rows_are_refused() -> None:
    numbers, distances = nearest(np.zeros((0, 3)), np.ones((4, 3)))
    assert len(numbers) == len(distances) == 0
    with pytest.raises(ValueError, match="training features of shape"):
        nearest(np.ones((4, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="3 and 2 wide"):
        nearest(np.ones((4, 2)), np.ones((4, 3)))


def test_copies_are_found_and_new_rows_are_none() -> None:
    generator = np.random.default_rng(0)
    train, heldout, new = (generator.normal(size=(count, 8)) for count in (500, 400, 400))
    assert copied(train[:100], heldout, train) == 1
    assert copied(train[:100] + 0.01, heldout, train) == 1
    assert copied(heldout, heldout, train) == pytest.approx(0.05, abs=0.005)
    assert copied(new, heldout, train) == pytest.approx(0.05, abs=0.035)
    half = np.concatenate([train[:200], new[:200]])
    assert copied(half, heldout, train) == pytest.approx(0.525, abs=0.03)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share="):
        copied(np.ones((4, 2)), np.ones((4, 2)), np.ones((4, 2)), share)
