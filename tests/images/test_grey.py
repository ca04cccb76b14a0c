from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from vademecum import files
from vademecum.images.codec import open_codec, reconstruction
from vademecum.images.grey import Grey
from vademecum.images.reading import grey_values

LEVELS = st.integers(2, 256)
PICTURES = arrays(np.uint8, st.tuples(st.integers(0, 3), st.just(5), st.just(3), st.just(1)))


@given(LEVELS, st.data())
def test_every_code_comes_back_as_itself(levels: int, data: st.DataObject) -> None:
    codec = Grey((5, 3), levels)
    ids = data.draw(arrays(np.int64, (2, 15), elements=st.integers(0, levels - 1)))
    assert np.array_equal(codec.encode(codec.decode(ids)), ids)


@given(LEVELS, PICTURES)
def test_a_pixel_becomes_the_nearest_of_evenly_spaced_levels(levels: int, pictures: NDArray[np.uint8]) -> None:
    codec = Grey((5, 3), levels)
    ids = codec.encode(pictures)
    ladder, flat = np.linspace(0, 255, levels), pictures.reshape(len(pictures), 15)
    nearest = np.abs(flat[..., None] - ladder).min(-1)
    assert ids.dtype == np.int64
    assert ids.shape == (len(pictures), 15)
    assert np.allclose(np.abs(flat - ladder[ids]), nearest)
    assert np.array_equal(codec.decode(ids).reshape(len(pictures), 15), np.rint(ladder).astype(np.uint8)[ids])


@given(PICTURES)
def test_256_levels_keep_every_pixel(pictures: NDArray[np.uint8]) -> None:
    codec = Grey((5, 3), 256)
    assert np.array_equal(codec.decode(codec.encode(pictures)), pictures)


def test_tokens_are_in_raster_order() -> None:
    picture = np.zeros((1, 2, 3, 1), dtype=np.uint8)
    picture[0, 1, 0] = 255
    assert Grey((2, 3), 2).encode(picture).tolist() == [[0, 0, 0, 1, 0, 0]]


def test_colour_is_read_as_its_luma() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 5, 3, 3), dtype=np.uint8)
    codec = Grey((5, 3), 16)
    assert np.array_equal(codec.encode(colour), codec.encode(grey_values(colour)))
    assert codec.encode(np.array([[[[0, 255, 0]]]], np.uint8).repeat(5, 1).repeat(3, 2)).max() == round(0.587 * 15)
    assert codec.decode(codec.encode(colour)).shape == (4, 5, 3, 1)
    assert reconstruction(codec, colour) == reconstruction(codec, grey_values(colour))


def test_a_saved_codec_opens_as_it_was(tmp_path: Path) -> None:
    codec = Grey((5, 3), 7)
    codec.save(tmp_path)
    found = open_codec(tmp_path)
    assert found == codec
    assert found.key == codec.key
    assert (found.codes, found.grid, found.side, found.channels) == (7, (5, 3), (5, 3), 1)
    assert len({Grey((5, 3), 7).key, Grey((3, 5), 7).key, Grey((5, 3), 8).key}) == 3


@pytest.mark.parametrize("levels", [-1, 0, 1, 257])
def test_other_levels_are_refused(levels: int) -> None:
    with pytest.raises(ValueError, match=f"levels={levels} was given; expected 2 to 256"):
        Grey((5, 3), levels)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="expected height and width in pixels"):
        Grey((0, 3))


@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((2, 5, 3, 1), np.float32),
        np.zeros((2, 3, 5, 1), np.uint8),
        np.zeros((2, 5, 3, 2), np.uint8),
        np.zeros((2, 5, 3), np.uint8),
        np.zeros((5, 3), np.uint8),
    ],
    ids=["type", "turned", "two channels", "no channels", "one picture"],
)
def test_pictures_of_another_form_are_refused(pictures: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"this codec takes uint8 of \[N, 5, 3, "):
        Grey((5, 3)).encode(pictures)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (np.full((1, 15), 4), "from 4 to 4 were given; this codec has 0 to 3"),
        (np.full((1, 15), -1), "from -1 to -1 were given"),
        (np.zeros((1, 14), np.int64), r"takes \[N, 15\]"),
        (np.zeros(15, np.int64), r"takes \[N, 15\]"),
        (np.full((1, 15), 1.5), "whole numbers"),
    ],
    ids=["above", "below", "too few", "one picture", "fractions"],
)
def test_codes_of_another_form_are_refused(ids: NDArray[np.int64], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Grey((5, 3)).decode(ids)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "{}",
        '{"form": "other"}',
        '{"form": []}',
        '{"form": "grey"}',
        '{"form": "grey", "side": [5], "levels": 4}',
        '{"form": "grey", "side": [5, 3], "levels": 1}',
        '{"form": "grey", "side": [5, 3], "levels": "many"}',
    ],
)
def test_a_description_that_is_none_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "codec.json").write_text(text)
    with pytest.raises(files.Damaged, match=r"codec\.json"):
        open_codec(tmp_path)


def test_bytes_that_are_no_text_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "codec.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(files.Damaged, match=r"codec\.json"):
        open_codec(tmp_path)


def test_a_folder_without_a_codec_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no codec: it has no codec\.json"):
        open_codec(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no codec"):
        open_codec(tmp_path / "nowhere")


def test_what_is_reported_of_a_reconstruction_is_what_was_lost() -> None:
    pictures = np.array([0, 100, 255, 255], np.uint8).reshape(1, 2, 2, 1)
    found = reconstruction(Grey((2, 2), 4), pictures)  # 0, 85, 255, 255: one pixel of four is off by 15
    assert (found.pictures, found.codes, found.used, found.share) == (1, 4, 3, 0.75)
    assert found.error == 15 / 4
    assert found.rmse == pytest.approx(15 / 2)
    assert found.psnr == pytest.approx(20 * np.log10(255 / 7.5))
    assert found.perplexity == pytest.approx(2**1.5)  # shares of a half and two quarters: 1.5 bits
    assert "off by 3.8 of 255" in str(found)
    assert "3 of 4 codes used (75.0%)" in str(found)


def test_a_codec_that_loses_nothing_has_no_end_of_decibels() -> None:
    found = reconstruction(Grey((2, 2), 2), np.array([0, 255, 0, 0], np.uint8).reshape(1, 2, 2, 1))
    assert found.error == found.rmse == 0
    assert found.psnr == float("inf")


def test_no_pictures_have_no_reconstruction() -> None:
    with pytest.raises(ValueError, match="no pictures were given"):
        reconstruction(Grey((2, 2)), np.zeros((0, 2, 2, 1), np.uint8))
