from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum import data
from vademecum.data import order

sizes = st.integers(1, 30).flatmap(lambda length: st.tuples(st.just(length), st.integers(length + 1, length * 40 + 7)))


def test_the_same_arguments_give_the_same_batch_and_other_ones_another() -> None:
    tokens = np.arange(10_000, dtype=np.uint16)
    first = data.batch(tokens, seed=3, step=7, batch=4, length=16)
    data.batch(tokens, seed=9, step=1, batch=2, length=5)
    np.random.rand(3)
    assert np.array_equal(first, data.batch(tokens, seed=3, step=7, batch=4, length=16))
    assert not np.array_equal(first, data.batch(tokens, seed=4, step=7, batch=4, length=16))
    assert not np.array_equal(first, data.batch(tokens, seed=3, step=8, batch=4, length=16))


def test_a_batch_holds_int64_windows_of_consecutive_tokens() -> None:
    tokens = np.arange(5_000, dtype=np.uint16)
    ids = data.batch(tokens, seed=0, step=0, batch=8, length=32)
    assert ids.shape == (8, 33)
    assert ids.dtype == np.int64
    assert (np.diff(ids) == 1).all()


@given(sizes, st.integers(0, 2**63 - 1), st.integers(0, 3), st.integers(1, 7))
def test_every_window_comes_exactly_once_per_epoch(size: tuple[int, int], seed: int, epoch: int, batch: int) -> None:
    length, count = size
    tokens = np.arange(count)
    windows = order.windows(count, length)
    first, last = epoch * windows, (epoch + 1) * windows
    steps = range(first // batch, -(-last // batch))
    starts = np.concatenate([data.batch(tokens, seed=seed, step=s, batch=batch, length=length)[:, 0] for s in steps])
    starts = np.sort(starts[first - steps[0] * batch :][:windows])
    assert len(starts) == windows
    assert (np.diff(starts) == length).all()
    assert starts[0] >= 0
    assert starts[-1] + length < count


def test_the_cut_is_shifted_from_epoch_to_epoch() -> None:
    tokens = np.arange(1_000)
    windows = order.windows(1_000, 50)
    offsets = {int(data.batch(tokens, seed=1, step=e, batch=windows, length=50)[:, 0].min()) for e in range(20)}
    assert len(offsets) > 10


def test_a_stream_of_single_windows_equals_the_batches() -> None:
    tokens = np.arange(3_000)
    wide = data.batch(tokens, seed=5, step=2, batch=6, length=10)
    narrow = [data.batch(tokens, seed=5, step=12 + k, batch=1, length=10)[0] for k in range(6)]
    assert np.array_equal(wide, np.stack(narrow))


@given(st.integers(1, 700), st.integers(0, 2**64 - 1))
def test_the_permutation_is_one_to_one(count: int, key: int) -> None:
    keys = np.full(count, key, dtype=np.uint64)
    assert np.array_equal(np.sort(order.permuted(np.arange(count), count, keys)), np.arange(count))


@pytest.mark.parametrize("position", [0, 3, 9])
def test_the_permutation_sends_a_position_anywhere_with_equal_chance(position: int) -> None:
    keys = order._scramble(np.arange(20_000, dtype=np.uint64))
    counts = np.bincount(order.permuted(np.full(20_000, position), 10, keys), minlength=10)
    assert ((counts - 2_000) ** 2 / 2_000).sum() < 27.9  # chi-squared, 9 degrees, one in a thousand


def test_a_batch_of_a_huge_text_reads_only_its_own_windows() -> None:
    class Counting:
        read = 0

        def __len__(self) -> int:
            return 10**12

        def __getitem__(self, index: np.ndarray) -> np.ndarray:
            Counting.read += index.size
            return index

    ids = data.batch(Counting(), seed=0, step=10**6, batch=4, length=8)  # type: ignore[arg-type]
    assert Counting.read == ids.size == 4 * 9
    assert ids.max() < 10**12


@given(sizes)
def test_heldout_windows_have_every_token_after_the_first_as_target_once(size: tuple[int, int]) -> None:
    length, count = size
    tokens = np.arange(count, dtype=np.uint16)
    ids = data.heldout_windows(tokens, length)
    assert np.array_equal(ids[:, 1:].ravel(), np.arange(1, 1 + len(ids) * length))
    assert count - 1 - len(ids) * length < length
    assert np.array_equal(ids[:, 0], ids[:, 1] - 1)


def test_a_limit_keeps_that_many_windows_from_all_over_the_text() -> None:
    tokens = np.arange(1_001)
    every, some = data.heldout_windows(tokens, 10), data.heldout_windows(tokens, 10, limit=10)
    assert len(some) == 10
    assert {tuple(row) for row in some} <= {tuple(row) for row in every}
    assert some[-1, 0] >= 900
    assert np.array_equal(data.heldout_windows(tokens, 10, limit=10**6), every)


@pytest.mark.parametrize("change", [{"batch": 0}, {"length": 0}, {"step": -1}])
def test_arguments_out_of_range_are_named(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        data.batch(np.arange(100), **{"seed": 0, "step": 0, "batch": 1, "length": 4, **change})


def test_a_text_shorter_than_a_window_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"has 8 tokens.*needs 9"):
        data.batch(np.arange(8), seed=0, step=0, batch=1, length=8)
    with pytest.raises(ValueError, match=r"has 8 tokens.*needs 9"):
        data.heldout_windows(np.arange(8), 8)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        data.heldout_windows(np.arange(8), 2, limit=0)
