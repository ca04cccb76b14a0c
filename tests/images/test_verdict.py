from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.images.shapes import judge_of, pictures, shapes
from vademecum.images import verdict
from vademecum.images.fidelity import copied, frechet, precision_recall
from vademecum.images.verdict import MEANING, Bench, Verdict, require


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.set_num_threads(1)
    some = pictures(count=240, heldout=90)
    return Bench.of(some, judge_of(some, tmp_path_factory.mktemp("judges")))


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "DRAWS", 12)


def test_new_pictures_of_the_right_classes_are_found_good_and_no_copies(bench: Bench) -> None:
    found, floor = bench.verdict(*shapes(90, seed=50)), bench.floor(90)
    assert found.count == floor.count == 90
    assert found.frechet < 3 * floor.frechet
    assert min(found.precision, found.recall) > 0.6
    assert found.agreement is not None
    assert found.agreement > 0.9
    assert found.copied < 0.2


def test_noise_is_found_bad_and_of_no_class(bench: Bench) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 12, 12, 1), dtype=np.uint8)
    found, floor = bench.verdict(noise, shapes(90, seed=50)[1]), bench.floor(90)
    assert found.frechet > 3 * floor.frechet
    assert found.precision < floor.precision
    assert found.agreement is not None
    assert found.agreement < 0.6


def test_one_class_alone_recalls_few_of_the_held_out_ones(bench: Bench) -> None:
    images, labels = shapes(270, seed=50)
    one = bench.verdict(images[labels == 0], labels[labels == 0])
    assert one.recall < bench.floor(90).recall - 0.3
    assert one.agreement is not None
    assert one.agreement > 0.9


def test_the_class_asked_for_is_what_counts(bench: Bench) -> None:
    images, labels = shapes(90, seed=50)
    right, wrong = bench.verdict(images, labels), bench.verdict(images, (labels + 1) % 3)
    assert right.agreement is not None
    assert wrong.agreement is not None
    assert wrong.agreement < 0.1 < 0.9 < right.agreement
    assert dataclasses.replace(wrong, agreement=0, spread={}) == dataclasses.replace(right, agreement=0, spread={})


def test_the_numbers_are_those_of_the_measures(bench: Bench) -> None:
    images, labels = shapes(60, seed=51)
    found = bench.verdict(images, labels)
    real, made = bench.judge.features(bench.pictures.heldout), bench.judge.features(images)
    both = precision_recall(real, made, 3)
    assert found.frechet == pytest.approx(frechet(real, made))
    assert (found.precision, found.recall) == (both.precision, both.recall)
    flat = [each.reshape(len(each), -1) for each in (images, bench.pictures.heldout, bench.pictures.train)]
    assert found.copied == copied(*flat)


@pytest.mark.parametrize("step", [1, 32], ids=["exact", "through a codec of nine levels"])
def test_training_pictures_drawn_again_are_found_to_be_copies(bench: Bench, step: int) -> None:
    train = np.clip(np.round(bench.pictures.train[:60] / step) * step, 0, 255).astype(np.uint8)
    found = bench.verdict(train, bench.pictures.train_labels[:60])
    assert found.copied == 1
    assert found.apart < bench.floor(60).apart
    if step == 1:
        assert found.apart == 0


def test_neighbours_are_the_training_pictures_that_were_copied(bench: Bench) -> None:
    train = bench.pictures.train
    moved = np.clip(train[[9, 4, 100]].astype(int) + 5, 0, 255).astype(np.uint8)
    assert np.array_equal(bench.neighbours(moved), train[[9, 4, 100]])


def test_the_floor_is_of_as_many_training_pictures_and_of_what_nobody_knows_by_heart(bench: Bench) -> None:
    floor = bench.floor(50)
    assert floor.count == 50
    assert floor.agreement == pytest.approx(bench.judge.accuracy)
    assert floor.copied == pytest.approx(0.05, abs=0.02)
    assert floor.apart > 0
    assert bench.floor(50) == floor != bench.floor(50, seed=1)
    assert bench.floor(10_000).count == 240


def test_the_distance_falls_with_the_count(bench: Bench) -> None:
    few, many = ([bench.floor(count, seed).frechet for seed in range(5)] for count in (12, 200))
    assert np.mean(few) > 1.5 * np.mean(many)


def test_the_same_seed_gives_the_same_spread_and_every_number_but_apart_has_one(bench: Bench) -> None:
    images, labels = shapes(60, seed=52)
    found = bench.verdict(images, labels, seed=3)
    assert bench.verdict(images, labels, seed=3) == found
    assert bench.verdict(images, labels, seed=4).spread["frechet"] != found.spread["frechet"]
    assert set(found.spread) == set(MEANING) - {"apart"}
    assert found.spread["frechet"] > 0


def test_the_spread_of_a_share_is_its_standard_error_with_the_classes_given(bench: Bench) -> None:
    images, labels = shapes(300, seed=52)
    wrong = np.where(np.arange(300) % 2 == 0, labels, (labels + 1) % 3)  # half of each class asked for
    found = bench.verdict(images, wrong)
    assert found.agreement == pytest.approx(0.5, abs=0.05)
    assert found.spread["agreement"] == pytest.approx(np.sqrt(0.25 / 300), rel=0.02)
    one = np.where(labels == 0, 1, np.where(labels == 1, 1, 2))  # all of class 2 right, half of what 1 was asked for
    assert bench.verdict(images, one).spread["agreement"] == pytest.approx(np.sqrt(200 * 0.25) / 300, rel=0.05)


@pytest.mark.parametrize("drawn", [90, 60, 30])
def test_pictures_are_drawn_again_within_their_class_and_all_of_them_can_come(drawn: int) -> None:
    strata = np.random.default_rng(0).permutation(np.repeat([4, -1, 7], [45, 30, 15]))
    generator, seen = np.random.default_rng(1), set[int]()
    for _ in range(60):
        chosen = verdict._again(strata, drawn, generator)
        assert {s: int((strata[chosen] == s).sum()) for s in (4, -1, 7)} == {
            4: drawn // 2,
            -1: drawn // 3,
            7: drawn // 6,
        }
        seen |= set(chosen.tolist())
    assert seen == set(range(90))


def test_classes_of_few_pictures_are_drawn_again_together() -> None:
    labels = np.array([0] * 5 + [1] * 4 + [2], np.int64)
    assert verdict._strata(labels).tolist() == [0] * 5 + [-1] * 5


@pytest.mark.parametrize("measure", ["frechet", "precision", "recall"])
def test_the_spread_is_near_what_other_draws_really_change(
    bench: Bench, measure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against 40 independent sets, of pictures that are noticeably worse than real ones."""

    def drawn(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images, labels = shapes(60, seed)
        noise = np.random.default_rng(seed).integers(-60, 60, images.shape)
        return np.clip(images + noise, 0, 255).astype(np.uint8), labels

    monkeypatch.setattr(verdict, "DRAWS", 40)
    claimed = np.mean([bench.verdict(*drawn(seed)).spread[measure] for seed in range(500, 505)])
    monkeypatch.setattr(verdict, "DRAWS", 2)
    true = np.std([getattr(bench.verdict(*drawn(seed)), measure) for seed in range(600, 640)], ddof=1)
    assert 0.6 * true < claimed < 2.5 * true


def test_of_many_pictures_fewer_are_drawn_and_the_spread_is_scaled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = shapes(240, seed=54)
    noisy = np.clip(images + np.random.default_rng(0).integers(-60, 60, images.shape), 0, 255).astype(np.uint8)
    monkeypatch.setattr(verdict, "DRAWS", 60)
    whole = bench.verdict(noisy, labels)
    monkeypatch.setattr(verdict, "_DRAWN", 120)
    part = bench.verdict(noisy, labels)
    assert part.spread["frechet"] != whole.spread["frechet"]
    assert part.spread["frechet"] == pytest.approx(whole.spread["frechet"], rel=0.5)
    assert dataclasses.replace(part, spread={}) == dataclasses.replace(whole, spread={})


def test_another_extractor_gives_the_distance_and_the_judge_the_classes(bench: Bench) -> None:
    class Pixels:
        description = "pixels"

        def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return images.reshape(len(images), -1).astype(np.float32)

    images, labels = shapes(60, seed=51)
    other = Bench.of(bench.pictures, bench.judge, Pixels()).verdict(images, labels)
    own = bench.verdict(images, labels)
    assert other.frechet == pytest.approx(frechet(Pixels().features(bench.pictures.heldout), Pixels().features(images)))
    assert (other.agreement, other.copied, other.apart) == (own.agreement, own.copied, own.apart)


def test_a_verdict_is_plain_data_and_every_number_has_a_meaning(bench: Bench) -> None:
    found = bench.verdict(*shapes(30, seed=53))
    assert Verdict(**json.loads(json.dumps(found.to_dict()))) == found
    assert set(found.to_dict()) == {*MEANING, "count", "spread"}


def test_pictures_and_labels_that_do_not_fit_are_refused(bench: Bench) -> None:
    images, labels = shapes(30, seed=53)
    for given, said in (
        ((images[:, :10], labels), "[30, 10, 12, 1] were given; expected [N, 12, 12, 1]"),
        ((images[:3], labels[:3]), "N of 4 or more"),
        ((images, labels[:-1]), "labels of shape [29] were given for 30 pictures"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            bench.verdict(*given)
    with pytest.raises(ValueError, match="count=3"):
        bench.floor(3)


def test_pictures_that_could_not_be_judged_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    require(pictures(heldout=4, side=8))
    with pytest.raises(ValueError, match="holds out 3 pictures, and 4 are needed"):
        require(pictures(heldout=3))
    with pytest.raises(ValueError, match="too small to judge"):
        require(pictures(side=7))
