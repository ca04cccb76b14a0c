"""Pictures as a material: every picture once an epoch, the class before it, hidden in a share of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.images import bars
from vademecum import files
from vademecum.images.grey import Grey
from vademecum.images.tokens import FILE, FOLDER, PictureTokens, Vocabulary, opened, tokenized


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> PictureTokens:
    pictures = bars.pictures(train=37, heldout=9)
    return tokenized(pictures, Grey((8, 8), 4), drop=0.25, cache=tmp_path_factory.mktemp("cache"))


def test_the_vocabulary_is_codes_then_classes_then_any(tokens: PictureTokens) -> None:
    assert tokens.vocab_size == 4 + 3 + 1
    assert tokens.vocabulary.any == 7
    assert tokens.vocabulary.of(np.array([0, 2])).tolist() == [4, 6]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5), st.integers(0, 40), st.integers(1, 50))
def test_windows_are_a_function_of_seed_and_step_alone(seed: int, step: int, batch: int) -> None:
    pictures = bars.pictures(train=37, heldout=9)
    material = PictureTokens(
        name="bars",
        description="bars",
        key="bars",
        codec=Grey((8, 8), 4),
        vocabulary=Vocabulary(4, bars.CLASSES, 0.25),
        train=Grey((8, 8), 4).encode(pictures.train),
        train_labels=pictures.train_labels,
        heldout=Grey((8, 8), 4).encode(pictures.heldout),
        heldout_labels=pictures.heldout_labels,
    )
    first = material.windows(seed=seed, step=step, batch=batch, length=64)
    assert first.shape == (batch, 65)
    material.windows(seed=seed + 1, step=step, batch=3, length=64)
    assert np.array_equal(first, material.windows(seed=seed, step=step, batch=batch, length=64))
    # The same pictures come whatever the batch is cut into.
    single = [material.windows(seed=seed, step=step * batch + i, batch=1, length=64)[0] for i in range(min(batch, 4))]
    assert np.array_equal(first[: len(single)], np.stack(single))


def test_an_epoch_shows_each_picture_once_with_its_class_or_none(tokens: PictureTokens) -> None:
    shown = np.concatenate([tokens.windows(seed=1, step=s, batch=1, length=64) for s in range(37)])
    known = {tuple(row): label for row, label in zip(tokens.train.tolist(), tokens.train_labels, strict=True)}
    assert {tuple(row) for row in shown[:, 1:].tolist()} == set(known)
    for row in shown.tolist():
        assert row[0] in (tokens.vocabulary.any, 4 + known[tuple(row[1:])])


def test_classes_are_hidden_in_about_the_share_that_was_asked_for(tokens: PictureTokens) -> None:
    shown = tokens.windows(seed=3, step=0, batch=4000, length=64)[:, 0]
    assert 0.22 < (shown == tokens.vocabulary.any).mean() < 0.28


def test_held_out_windows_have_the_true_class_and_cover_every_value_of_a_pixel(tokens: PictureTokens) -> None:
    held = tokens.heldout_windows(64)
    assert held.shape == (9, 65)
    assert (held[:, 0] == 4 + tokens.heldout_labels).all()
    assert tokens.covered_bytes(held[:, 1:]) == 9 * 64
    assert np.array_equal(tokens.heldout_windows(64, 3), held[[0, 3, 6]])


@pytest.mark.parametrize("length", [63, 65])
def test_another_length_than_a_pictures_is_refused(tokens: PictureTokens, length: int) -> None:
    with pytest.raises(ValueError, match="write length=64"):
        tokens.windows(seed=0, step=0, batch=1, length=length)
    with pytest.raises(ValueError, match="write length=64"):
        tokens.heldout_windows(length)


def test_what_is_kept_beside_a_run_opens_again(tokens: PictureTokens, tmp_path: Path) -> None:
    tokens.keep(tmp_path)
    codec, vocabulary = opened(tmp_path)
    assert (codec, vocabulary) == (tokens.codec, tokens.vocabulary)
    with pytest.raises(FileNotFoundError, match="not a run on pictures"):
        opened(tmp_path / "other")


def test_a_vocabulary_that_is_not_as_it_was_written_is_damaged(tokens: PictureTokens, tmp_path: Path) -> None:
    tokens.keep(tmp_path)
    path = tmp_path / FOLDER / FILE
    whole = path.read_text()
    for spoilt in (whole[:-9], "", whole.replace("codes", "kodes"), "[]"):
        path.write_text(spoilt)
        with pytest.raises(files.Damaged, match=r"vocabulary\.json"):
            opened(tmp_path)
        with pytest.raises(files.Damaged, match=r"vocabulary\.json is not a vocabulary of this version"):
            Vocabulary.read(tmp_path)
    path.unlink()
    with pytest.raises(files.Damaged, match=r"vocabulary\.json is missing"):
        opened(tmp_path)


def test_a_run_is_known_by_its_pictures_not_by_what_lies_beside_them(tokens: PictureTokens) -> None:
    other = dataclasses.replace(tokens, name="moved", description="bars; left out: 1 hidden")
    assert other.identity() == tokens.identity()
    assert dataclasses.replace(tokens, key="others").identity() != tokens.identity()


def test_an_unknown_class_is_named_with_the_nearest() -> None:
    vocabulary = Vocabulary(4, bars.CLASSES, 0.1)
    assert vocabulary.label("slanted") == 1
    with pytest.raises(ValueError, match=r"no class 'uprigt' \(did you mean upright\?\): give one of lying, slanted"):
        vocabulary.label("uprigt")


@pytest.mark.parametrize("drop", [-0.1, 1.0])
def test_a_share_of_hidden_classes_is_a_share(drop: float) -> None:
    with pytest.raises(ValueError, match="from 0 to below 1"):
        Vocabulary(4, bars.CLASSES, drop)
