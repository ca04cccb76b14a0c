from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vademecum.images.pictures import CLASHES, COPIES, LONELY, split

# Few different pictures and labels, so that copies, clashes and classes of one are common.
entries = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4)), max_size=120)


def arrays(found: list[tuple[int, int]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pictures = np.array([[value, 2, 3, 4] for value, _ in found], dtype=np.uint8).reshape(-1, 2, 2, 1)
    return pictures, np.array([label for _, label in found], dtype=np.int64)


def chosen(found: list[tuple[int, int]], numbers: NDArray[np.int64]) -> list[tuple[int, int]]:
    return [found[number] for number in numbers]


@given(entries)
def test_no_picture_is_on_both_sides_or_twice_on_one(found: list[tuple[int, int]]) -> None:
    train, heldout, _ = split(*arrays(found))
    values = [value for value, _ in chosen(found, np.concatenate([train, heldout]))]
    assert len(values) == len(set(values))


@given(entries)
def test_every_class_is_on_both_sides_or_on_none(found: list[tuple[int, int]]) -> None:
    train, heldout, _ = split(*arrays(found))
    assert {label for _, label in chosen(found, train)} == {label for _, label in chosen(found, heldout)}


@given(entries)
def test_every_picture_is_on_a_side_or_counted_as_left_out(found: list[tuple[int, int]]) -> None:
    train, heldout, skipped = split(*arrays(found))
    assert len(train) + len(heldout) + sum(skipped.values()) == len(found)
    firsts = dict[int, int]()
    for value, label in found:
        firsts.setdefault(value, label)
    clashes = sum(firsts[value] != label for value, label in found)
    copies = len(found) - len(firsts) - clashes
    lonely = sum(count == 1 for count in Counter(firsts.values()).values())
    assert skipped == {
        reason: count for reason, count in ((COPIES, copies), (CLASHES, clashes), (LONELY, lonely)) if count
    }


@given(entries, st.randoms(use_true_random=False))
def test_the_order_of_the_pictures_does_not_change_the_sides(found: list[tuple[int, int]], dice: object) -> None:
    one_label_each = list(dict(found).items())  # which of two clashing labels stays is a matter of order
    shuffled = list(one_label_each)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    sides = []
    for order in (one_label_each, shuffled):
        train, heldout, _ = split(*arrays(order))
        sides.append((set(chosen(order, train)), set(chosen(order, heldout))))
    assert sides[0] == sides[1]


@given(st.integers(2, 3000))
def test_about_a_twentieth_of_a_class_is_held_out_at_least_one_at_most_a_hundred(count: int) -> None:
    pictures = np.arange(count, dtype=np.uint16).view(np.uint8).reshape(count, 1, 2, 1)
    train, heldout, skipped = split(pictures, np.zeros(count, dtype=np.int64))
    assert len(heldout) == min(100, max(1, round(count / 20)))
    assert len(train) == count - len(heldout)
    assert skipped == {}


def test_of_the_same_picture_in_two_classes_the_first_stays() -> None:
    train, heldout, skipped = split(*arrays([(1, 0), (2, 0), (1, 1), (3, 1), (4, 1), (2, 1)]))
    assert sorted([*train, *heldout]) == [0, 1, 3, 4]
    assert skipped == {CLASHES: 2}


def test_nothing_is_split_into_nothing() -> None:
    train, heldout, skipped = split(*arrays([]))
    assert (train.tolist(), heldout.tolist(), skipped) == ([], [], {})
